"""The wire formats without HTTP, inwards: bodies to requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from open_llm_server import core
from open_llm_server.api import native, openai_chat, openai_completions, openai_embeddings
from open_llm_server.errors import InvalidField, NotSupported, RequestError

HELLO = [{"role": "user", "content": "Hello"}]


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_native_chat_reads_every_sampling_value() -> None:
    values = {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.15,
        "min_p": 0.1,
        "max_tokens": 7,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "repetition_penalty": 1.1,
        "seed": -5,
        "num_beams": 4,
    }
    ask = native.read_chat(body(prompt="Hello", stop_sequence="--", model="m", **values))
    assert ask.request == core.ChatRequest(
        messages=(core.Message(role="user", content="Hello"),),
        # The values are of many types, and pydantic looks at each.
        sampling=core.Sampling(stop_sequence=("--",), **values),  # type: ignore[arg-type]
    )
    assert set(values) | {"stop_sequence"} == set(core.SAMPLING_FIELDS)
    assert ask.model == "m"
    assert ask.writer is None


def test_native_chat_takes_a_prompt_or_messages() -> None:
    assert (
        native.read_chat(body(messages=HELLO)).request
        == native.read_chat(body(prompt="Hello", messages=None)).request
    )
    for fields in ({}, {"prompt": "x", "messages": HELLO}, {"prompt": None}):
        with pytest.raises(InvalidField, match="one of the two"):
            native.read_chat(body(**fields))


def test_stop_is_another_name() -> None:
    for fields in ({"stop": ["a"]}, {"stop_sequence": "a"}, {"stop": "a", "stop_sequence": ["a"]}):
        request = native.read_chat(body(prompt="x", **fields)).request
        assert isinstance(request, core.ChatRequest)
        assert request.sampling.stop_sequence == ("a",)
    with pytest.raises(InvalidField):
        native.read_chat(body(prompt="x", stop="a", stop_sequence="b"))


def test_native_chat_gives_one_answer() -> None:
    assert native.read_chat(body(prompt="x", n=1)).ignored == ()
    with pytest.raises(NotSupported) as refused:
        native.read_chat(body(prompt="x", n=2))
    assert refused.value.param == "n"


@pytest.mark.parametrize(
    ("read", "fields", "old", "new"),
    [
        (native.read_chat, {"prompt": "x"}, "messages", "prompt"),
        (native.read_chat, {"messages": HELLO}, "messages", "messages"),
        (native.read_complete, {"prompt": "x"}, "prompt.0", "prompt"),
        (native.read_embed, {"input": "x"}, "input.0", "input"),
        (native.read_embed, {"input": ["x"]}, "input.0", "input.0"),
        (openai_completions.read, {"prompt": "x"}, "prompt.0", "prompt"),
        (openai_completions.read, {"prompt": [1, 2]}, "prompt.0.1", "prompt.1"),
        (openai_completions.read, {"prompt": ["x", "y"]}, "prompt.1", "prompt.1"),
        (openai_embeddings.read, {"input": [7]}, "input.0.0", "input.0"),
        (openai_completions.read, {"prompt": "x"}, "prompt.01", "prompt.01"),
        (openai_chat.read, {"messages": HELLO}, "messages", "messages"),
    ],
)
def test_errors_name_the_field_that_was_sent(
    read: Any, fields: dict[str, Any], old: str, new: str
) -> None:
    assert read(body(**fields)).rename(old) == new


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}]},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function"}},
        {"functions": [{}]},
        {"response_format": {"type": "json_object"}},
        {"response_format": "json"},
        {"logit_bias": {"1": 5}},
        {"audio": {"voice": "x"}},
        {"modalities": ["text", "audio"]},
        {"grammar": "root ::= x"},
        {"guided_json": {}, "structured_outputs": {"json": {}}},
        {"chat_template": "{{ x }}"},
        {"web_search_options": {}},
        {"suffix": "end"},
    ],
)
def test_what_would_change_the_meaning_is_refused(fields: dict[str, Any]) -> None:
    for read, rest in (
        (openai_chat.read, {"messages": HELLO}),
        (openai_completions.read, {"prompt": "x"}),
    ):
        with pytest.raises(NotSupported) as refused:
            read(body(**rest, **fields))
        assert refused.value.param in fields


def test_what_asks_for_nothing_is_accepted() -> None:
    nothing = {
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "logit_bias": {},
        "modalities": ["text"],
        "audio": None,
        "suffix": "",
        "user": "me",
    }
    assert openai_chat.read(body(messages=HELLO, **nothing)).ignored == ()
    ask = openai_chat.read(
        body(messages=HELLO, store=True, metadata={}, stream=True, stream_options={"x": 1})
    )
    assert ask.ignored == ("store", "metadata", "stream_options.x")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"logprobs": 1}, "logprobs"),
    ],
)
def test_chat_fields_that_do_not_go_together(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidField) as refused:
        openai_chat.read(body(messages=HELLO, **fields))
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"best_of": 2}, NotSupported, "best_of"),
        ({"best_of": 2, "n": 1}, NotSupported, "best_of"),
        ({"logprobs": 21}, InvalidField, "logprobs"),
        ({"logprobs": True}, InvalidField, "logprobs"),
        ({"prompt": ["x", "y"], "n": 65}, InvalidField, "n"),
    ],
)
def test_completion_fields_that_do_not_go_together(
    fields: dict[str, Any], kind: type[RequestError], param: str
) -> None:
    with pytest.raises(kind) as refused:
        openai_completions.read(body(**{"prompt": "x", **fields}))
    assert refused.value.param == param


def test_completion_requests() -> None:
    ask = openai_completions.read(
        body(prompt=[[1, 2], [3]], n=2, best_of=2, echo=True, logprobs=0, max_tokens=0)
    )
    assert ask.request == core.CompletionRequest(
        prompts=((1, 2), (3,)),
        n=2,
        echo=True,
        logprobs=0,
        sampling=core.Sampling(max_tokens=0),
    )
