"""Proto messages read as the native routes' JSON, and their answers written as proto messages."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_llm_server.core import SAMPLING_FIELDS
from open_llm_server.errors import InvalidField
from open_llm_server.rpc import messages, v1

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
INT64 = st.integers(-(2**63), 2**63 - 1)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
FLOATS = ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty")
KINDS = {
    **dict.fromkeys(SAMPLING_FIELDS, INT64),
    **dict.fromkeys((*FLOATS, "repetition_penalty"), NUMBER),
    "stop_sequence": st.lists(TEXT, max_size=4),
}
ANY_SAMPLING = st.fixed_dictionaries({}, optional=KINDS)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cached_tokens": 1}


def sampling(values: dict[str, Any]) -> v1.Sampling:
    made = dict(values)
    if "stop_sequence" in made:
        made["stop_sequence"] = v1.StopSequence(texts=made["stop_sequence"])
    return v1.Sampling(**made)


def test_the_proto_has_a_field_for_each_sampling_value() -> None:
    assert tuple(v1.Sampling.DESCRIPTOR.fields_by_name) == SAMPLING_FIELDS


@given(ANY_SAMPLING, TEXT)
def test_every_sampling_reads_as_the_same_json(values: dict[str, Any], prompt: str) -> None:
    sent = sampling(values)
    chat = v1.ChatRequest(prompt=prompt, sampling=sent).SerializeToString()
    complete = v1.CompleteRequest(prompt=prompt, sampling=sent).SerializeToString()
    for body in (messages.chat_body(chat), messages.complete_body(complete)):
        assert json.loads(body) == {"prompt": prompt, **values}


@given(ANY_SAMPLING)
def test_the_configuration_of_an_answer_reads_back(values: dict[str, Any]) -> None:
    used: dict[str, Any] = {**dict.fromkeys(SAMPLING_FIELDS), **values, "prompt": None}
    answer = {"finish_reason": "stop", "configuration": used, "usage": USAGE}
    told = messages.stream_end(answer).configuration
    assert told.sampling == sampling(values)
    assert not told.HasField("prompt")


def test_what_is_unset_stays_unset_and_zero_is_a_value() -> None:
    assert json.loads(messages.chat_body(b"")) == {}
    assert json.loads(messages.complete_body(b"")) == {}
    empty = v1.ChatRequest(sampling=v1.Sampling()).SerializeToString()
    assert json.loads(messages.chat_body(empty)) == {}
    zeros: dict[str, Any] = dict.fromkeys(SAMPLING_FIELDS, 0) | {"stop_sequence": []}
    sent = v1.CompleteRequest(model="", prompt="", n=0, sampling=sampling(zeros))
    assert json.loads(messages.complete_body(sent.SerializeToString())) == {
        "model": "",
        "prompt": "",
        "n": 0,
        **zeros,
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [*FLOATS, "repetition_penalty"])
def test_numbers_that_are_none_are_refused_by_name(name: str, value: float) -> None:
    sent = v1.Sampling(**{name: value})  # type: ignore[arg-type]  # names of floats only
    with pytest.raises(InvalidField, match=rf"{name}: .*finite") as raised:
        messages.chat_body(v1.ChatRequest(prompt="x", sampling=sent).SerializeToString())
    assert raised.value.param == name


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3), st.none() | TEXT)
def test_conversations(turns: list[tuple[str, str]], model: str | None) -> None:
    spoken = [v1.Message(role=role, content=content) for role, content in turns]
    body = json.loads(
        messages.chat_body(v1.ChatRequest(model=model, messages=spoken).SerializeToString())
    )
    assert body.pop("messages") == [{"role": role, "content": content} for role, content in turns]
    assert body == ({} if model is None else {"model": model})


@given(st.lists(TEXT, max_size=3) | st.lists(st.lists(INT64, max_size=3), max_size=3))
def test_inputs_of_embeddings(inputs: list[Any]) -> None:
    items = [
        v1.EmbedInput(text=item)
        if isinstance(item, str)
        else v1.EmbedInput(token_ids=v1.TokenIds(ids=item))
        for item in inputs
    ]
    body = messages.embed_body(v1.EmbedRequest(input=items).SerializeToString())
    assert json.loads(body) == {"input": inputs}


def test_inputs_that_are_none_or_mixed_are_refused_by_name() -> None:
    text, ids = v1.EmbedInput(text=""), v1.EmbedInput(token_ids=v1.TokenIds(ids=[1]))
    for items, param in (([text, v1.EmbedInput()], "input.1"), ([text, ids], "input")):
        with pytest.raises(InvalidField, match="token") as raised:
            messages.embed_body(v1.EmbedRequest(input=items).SerializeToString())
        assert raised.value.param == param


@pytest.mark.parametrize("read", [messages.chat_body, messages.complete_body, messages.embed_body])
@pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe"])
def test_what_is_no_message_is_refused_with_its_name(
    read: Callable[[bytes], bytes], data: bytes
) -> None:
    with pytest.raises(InvalidField, match=r"no open_llm\.v1\.\w+Request: .*reflection"):
        read(data)


async def test_whole_answers() -> None:
    tail = {"id": "i", "model": "m", "configuration": {"top_k": 0, "prompt": "p"}, "usage": USAGE}
    chat = await messages.chat_response({"message": "hé", "finish_reason": "length", **tail})
    assert (chat.id, chat.model, chat.message) == ("i", "m", "hé")
    assert chat.finish_reason == v1.FINISH_REASON_LENGTH
    assert chat.configuration.sampling.HasField("top_k")
    assert not chat.configuration.sampling.HasField("seed")
    assert chat.configuration.prompt == "p"
    reasons = ["stop", "length"]
    complete = await messages.complete_response(
        {"choices": ["a", ""], "finish_reasons": reasons, **tail}
    )
    assert [*complete.choices] == ["a", ""]
    assert [*complete.finish_reasons] == [v1.FINISH_REASON_STOP, v1.FINISH_REASON_LENGTH]
    for answer in (chat, complete):
        assert answer.usage == v1.Usage(**USAGE)


async def test_many_vectors_in_their_order() -> None:
    vectors = [[float(place), -0.5] for place in range(50)]
    answer = {"embeddings": vectors, "dimension": 2, "pooling": "mean", "usage": USAGE}
    response = await messages.embed_response({"id": "i", "model": "m", **answer})
    assert [[*vector.values] for vector in response.embeddings] == vectors
    assert (response.dimension, response.pooling) == (2, "mean")


def test_models() -> None:
    facts: dict[str, Any] = {
        "id": "m",
        "family": None,
        "status": "loading",
        "aliases": ["a"],
        "context_length": None,
        "capabilities": ["chat"],
        "embedding_dimension": 0,
        "copies": 2,
    }
    (model,) = messages.models_response([facts]).models
    assert (model.id, model.family, model.status, model.copies) == ("m", "", "loading", 2)
    assert not model.HasField("context_length")
    assert model.HasField("embedding_dimension")
