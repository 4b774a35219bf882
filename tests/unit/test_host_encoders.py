"""What a host does for models with an encoder: the end of prompts, scores, spaces, refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hosting import FEW, SETTINGS, ask, chat, end, failure, hosting, text
from hypothesis import given
from hypothesis import strategies as st
from merging import merged

from open_llm_server.core import (
    ChatRequest,
    CompletionRequest,
    EmbedRequest,
    InfoRequest,
    Message,
    Sampling,
)
from open_llm_server.engine.base import Engine
from open_llm_server.engine.fake import END, FakeEngine
from open_llm_server.engine.suffix import ended
from open_llm_server.errors import ConfigurationError
from open_llm_server.fake import Fake
from open_llm_server.frames import Delta, Embeddings, Info, Start
from open_llm_server.host import Host

START = 1
"""What the decoder begins with; a byte that no text here holds."""
SUFFIX = (END, START)


class EncoderDecoder(FakeEngine):
    def piece(self, token: int) -> bytes:
        return b"" if token == START else super().piece(token)


def encoder_decoder(**kw: Any) -> FakeEngine:
    engine = EncoderDecoder(**{"context_length": 256, "slots": 4, **kw})
    engine.limits = replace(engine.limits, whole_prompt=True, prompt_suffix=SUFFIX)
    return engine


def encoder() -> FakeEngine:
    engine = FakeEngine(context_length=256, slots=4)
    engine.limits = replace(engine.limits, prompt_suffix=(END,), generates=False)
    return engine


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with hosting(encoder_decoder()) as host:
        yield host


@pytest.fixture
async def embedder() -> AsyncIterator[Host]:
    async with hosting(encoder()) as host:
        yield host


# -- the end of a prompt ---------------------------------------------------------------------


@given(own=st.lists(st.integers(2, 5), max_size=4), there=st.integers(0, 3))
def test_a_suffix_is_completed_and_never_repeated(own: list[int], there: int) -> None:
    suffix = (7, 8, 9)
    assert ended([*own, *suffix[:there]], suffix) == [*own, *suffix]
    assert ended(own, ()) == own


async def test_every_prompt_ends_with_the_suffix(host: Host) -> None:
    frames = await ask(host, chat("Hello"))
    assert frames[0] == Start(prompt_tokens=len("U: Hello\nA:") + len(SUFFIX))
    hello = tuple(b"Hello")
    prompts = ("Hello", hello, (*hello, END), (*hello, *SUFFIX))
    frames = await ask(host, CompletionRequest(prompts=prompts))
    assert frames[0] == Start(prompt_tokens=len(prompts) * (len("Hello") + len(SUFFIX)))
    assert len({text(frames, index) for index in range(len(prompts))}) == 1


async def test_the_suffix_takes_room(host: Host) -> None:
    error = failure(await ask(host, CompletionRequest(prompts=("x" * 254,))))
    assert error["code"] == "context_length_exceeded"
    assert (error["extra"]["n_prompt_tokens"], error["extra"]["n_ctx"]) == (256, 256)
    fits = await ask(host, CompletionRequest(prompts=("x" * 253,)))
    assert end(fits).usage.completion_tokens == 1


async def test_an_empty_prompt_is_refused_although_there_is_a_suffix(host: Host) -> None:
    assert failure(await ask(host, CompletionRequest(prompts=("",))))["param"] == "prompt.0"


# -- an answer is a text of its own ----------------------------------------------------------


async def test_an_answer_begins_without_the_tokenisers_space(host: Host) -> None:
    request = CompletionRequest(prompts=("Hello", "Bye"), n=2, logprobs=2, sampling=FEW)
    frames = await ask(host, request)
    for index in range(4):
        words = text(frames, index).split(" ")
        assert len(words) == 3 and all(words)
        scores = [s for f in frames if isinstance(f, Delta) and f.index == index for s in f.scores]
        assert b"".join(score.raw for score in scores).decode() == text(frames, index)
        assert scores[0].raw == scores[0].top[0].raw
    async with hosting() as plain:
        assert text(await ask(plain, chat("Hello"))).startswith(" ")


async def test_an_encoders_prompt_has_no_log_probabilities(host: Host) -> None:
    both = CompletionRequest(prompts=("Hello",), echo=True, logprobs=0, sampling=FEW)
    error = failure(await ask(host, both))
    assert (error["code"], error["param"]) == ("not_supported", "echo")
    for prompt in ("Hello", tuple(b"Hello")):
        alone = CompletionRequest(prompts=(prompt,), echo=True, sampling=FEW)
        answer = text(await ask(host, alone.model_copy(update={"echo": False})))
        assert text(await ask(host, alone)) == f"Hello{answer}"


async def test_nothing_is_scored_of_an_echo_without_an_answer(host: Host) -> None:
    request = CompletionRequest(prompts=("Hello",), echo=True, sampling=Sampling(max_tokens=0))
    frames = await ask(host, request)
    assert text(frames) == "Hello"
    assert end(frames).usage.completion_tokens == 0


async def test_an_encoders_preprompt_comes_first() -> None:
    settings = replace(SETTINGS, prompt="Be brief.")
    async with hosting(encoder_decoder(), settings) as host, hosting(encoder_decoder()) as plain:
        turns = (
            Message(role="system", content="Be brief."),
            Message(role="user", content="Hi"),
        )
        expected = await ask(plain, ChatRequest(messages=turns))
        assert text(await ask(host, chat("Hi"))) == text(expected)
        expected = await ask(plain, CompletionRequest(prompts=("Be brief.Hi",)))
        assert text(await ask(host, CompletionRequest(prompts=("Hi",)))) == text(expected)


# -- models that only embed ------------------------------------------------------------------


@pytest.mark.parametrize("request_", [chat("Hello"), CompletionRequest(prompts=("Hello",))])
async def test_an_embedder_generates_nothing(
    embedder: Host, request_: ChatRequest | CompletionRequest
) -> None:
    error = failure(await ask(embedder, request_))
    assert (error["code"], error["param"]) == ("not_supported", "model")
    assert "/embed" in error["message"] and "/v1/embeddings" in error["message"]


async def test_an_embedder_says_so(embedder: Host, host: Host) -> None:
    for one, generates in ((embedder, False), (host, True)):
        (frame,) = await ask(one, InfoRequest())
        assert isinstance(frame, Info)
        assert frame.facts["generates"] is generates


async def test_an_input_leaves_room_for_its_end(embedder: Host) -> None:
    frames = await ask(embedder, EmbedRequest(inputs=("x" * 255, (*b"x" * 254, END))))
    assert frames[0] == Start(prompt_tokens=256 + 255)
    assert end(frames).usage.prompt_tokens == 256 + 255
    assert any(isinstance(frame, Embeddings) for frame in frames)
    error = failure(await ask(embedder, EmbedRequest(inputs=("fine", "x" * 256))))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input.1")
    assert error["extra"]["n_prompt_tokens"] == 257


async def test_the_decoders_first_token_is_no_part_of_an_input(host: Host) -> None:
    frames = await ask(host, EmbedRequest(inputs=("Hello",)))
    assert end(frames).usage.prompt_tokens == len("Hello") + 1


# -- loading ---------------------------------------------------------------------------------


async def load(engine: FakeEngine, *, card: str | None = "fake", **config: Any) -> Host:
    """The host of a family whose engine is `engine`."""

    class Family(Fake):
        name = card or "cardless"

        @classmethod
        def open_engine(cls, plan: Any, config: Any, *, pinned_slots: int) -> Engine:
            return engine

    sets = [f"fake.{name}={value}" for name, value in config.items()]
    (plan,) = merged("fake", sets=sets).models
    plan = plan.model_copy(update={"card": card})
    return await Family.load(plan, on_crash=lambda _: None)


async def test_a_preprompt_is_pinned_for_decoders_only() -> None:
    for engine, pinned in ((FakeEngine(), True), (encoder_decoder(), False), (encoder(), False)):
        host = await load(engine, prompt="Be brief.")
        try:
            assert (engine.evaluated_tokens > 0) is pinned
        finally:
            await host.close()


async def test_a_preprompt_without_room_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="pre-prompt"):
        await load(encoder_decoder(context_length=16), prompt="x" * 20)


@pytest.mark.parametrize(
    ("engine", "beams", "words"),
    [
        (FakeEngine(slots=4), 2, "num_beams: .*encoder-decoder.*--set MODEL.num_beams"),
        (encoder_decoder(slots=9), 5, "has 4; .*--slots 5"),
    ],
    ids=["decoder-only", "slots"],
)
async def test_beams_that_cannot_be_had_are_refused_at_the_start(
    engine: FakeEngine, beams: int, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        await load(engine, num_beams=beams)
    assert refused.value.param == "num_beams"


@pytest.mark.parametrize("engine", [encoder_decoder(), encoder()], ids=["searches", "only embeds"])
async def test_beams_that_harm_nobody_are_none_to_refuse(engine: FakeEngine) -> None:
    await (await load(engine, num_beams=4)).close()


async def test_an_embedder_needs_no_prompt_format() -> None:
    with pytest.raises(ConfigurationError, match="no chat template"):
        await load(FakeEngine(), card=None)
    host = await load(encoder(), card=None)
    try:
        assert failure(await ask(host, chat("Hello")))["param"] == "model"
        assert end(await ask(host, EmbedRequest(inputs=("Hello",)))).usage.prompt_tokens == 6
    finally:
        await host.close()
