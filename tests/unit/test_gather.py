from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from open_llm_server.core import ChatRequest, Message, Usage
from open_llm_server.errors import InvalidField, QueueFull, RunnerLost
from open_llm_server.frames import (
    Alive,
    Delta,
    Embeddings,
    End,
    Failure,
    Frame,
    Info,
    Queued,
    Start,
    TokenScore,
)
from open_llm_server.gather import (
    as_error,
    chat_answer,
    chat_request,
    completion_answer,
    completion_request,
    embed_answer,
    embed_request,
    gather,
    sampling_of,
)
from open_llm_server.port import Busy, Gone, Lost


async def frames(*given: Frame) -> AsyncIterator[Frame]:
    for frame in given:
        yield frame


USAGE = Usage(prompt_tokens=3, completion_tokens=2)
END = End(USAGE, {"prompt_s": 0.1}, {"temperature": 0.5})


async def test_a_chat_is_its_pieces_put_together() -> None:
    gathered = await gather(
        frames(
            Queued(1, None),
            Start(3),
            Delta(0, "Hel", 1),
            Alive(),
            Delta(0, "lo", 1, (), "length"),
            END,
        )
    )
    answer = chat_answer(gathered)
    assert (answer.message, answer.finish_reason) == ("Hello", "length")
    assert answer.usage == USAGE
    assert answer.configuration == {"temperature": 0.5}
    assert gathered.timings == {"prompt_s": 0.1}


async def test_choices_come_in_order_whatever_their_pieces_did() -> None:
    one, two = (TokenScore(number, b"t", -1.0) for number in (1, 2))
    gathered = await gather(
        frames(Delta(1, "b", 1, (one,)), Delta(0, "a", 1), Delta(1, "B", 1, (two,), "stop"), END)
    )
    first, second = completion_answer(gathered).choices
    assert (first.text, second.text) == ("a", "bB")
    assert second.scores == (one, two)


async def test_vectors_and_facts() -> None:
    vectors = Embeddings(((0.0, 1.0),), 2, "mean", "m")
    answer = embed_answer(await gather(frames(Start(1), vectors, End(Usage(prompt_tokens=1)))))
    assert (answer.embeddings, answer.dimension, answer.pooling) == (((0.0, 1.0),), 2, "mean")
    assert answer.usage.prompt_tokens == 1
    assert (await gather(frames(Info({"ready": True})))).facts == {"ready": True}


async def test_a_failure_is_raised_as_the_error_it_was() -> None:
    failure = Failure(QueueFull("full", retry_after=3.0).frame())
    with pytest.raises(QueueFull, match="full") as raised:
        await gather(frames(Delta(0, "x"), failure))
    assert raised.value.retry_after == 3.0


def test_a_chat_from_a_text_or_from_turns() -> None:
    turn = Message(role="user", content="Hi")
    assert chat_request("Hi", {}) == ChatRequest(messages=(turn,))
    assert chat_request([{"role": "user", "content": "Hi"}], {}) == ChatRequest(messages=(turn,))
    assert chat_request([turn], {"temperature": 0.5}).sampling.temperature == 0.5


def test_prompts_and_inputs_one_or_many() -> None:
    assert completion_request("a", {}, n=2).prompts == ("a",)
    assert completion_request(["a", "b"], {}, n=1).prompts == ("a", "b")
    assert embed_request("a").inputs == ("a",)


@pytest.mark.parametrize("stop", ["--", ["--"], ("--",)])
def test_a_single_stop_text_is_taken(stop: object) -> None:
    assert sampling_of({"stop_sequence": stop}).stop_sequence == ("--",)


@pytest.mark.parametrize(
    ("keywords", "param", "words"),
    [
        ({"temprature": 1}, "temprature", "temperature"),
        ({"zzz": 1}, "zzz", "top_k"),
        ({"temperature": 9.0}, "temperature", "less than or equal to 2"),
        ({"top_k": "3"}, "top_k", "integer"),
    ],
)
def test_wrong_sampling_is_named(keywords: dict[str, object], param: str, words: str) -> None:
    with pytest.raises(InvalidField, match=words) as raised:
        sampling_of(keywords)
    assert raised.value.param == param


def test_a_wrong_turn_is_named_with_its_place() -> None:
    with pytest.raises(InvalidField) as raised:
        chat_request([{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}], {})
    assert raised.value.param == "messages.1.role"


def test_what_a_port_raises_becomes_an_error_with_a_way_out() -> None:
    busy, lost, gone = (
        as_error(raised)
        for raised in (Busy(7.0), Lost(started=True, why="killed"), Gone("nothing"))
    )
    assert isinstance(busy, RunnerLost)
    assert busy.retry_after == 7.0
    assert isinstance(lost, RunnerLost)
    assert "killed" in lost.message
    assert isinstance(gone, RunnerLost)
