"""The wire formats without HTTP: bodies to requests, frames to answers and events."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from open_llm_server import core
from open_llm_server.api import native, openai_chat, openai_completions, openai_embeddings
from open_llm_server.api.ask import Ask, Signature
from open_llm_server.api.collect import Collector
from open_llm_server.api.openai_completions import Offsets, spelled
from open_llm_server.core import Usage
from open_llm_server.errors import EngineError, InvalidField, NotSupported, RequestError
from open_llm_server.frames import Delta, Embeddings, End, Frame, TokenScore

SIGNED = Signature(id="r1", created=1_700_000_000, model="m", fingerprint="fp_1")
HELLO = [{"role": "user", "content": "Hello"}]
USAGE = Usage(prompt_tokens=5, completion_tokens=2, cached_tokens=3)
END = End(USAGE, {}, {"temperature": 0.5})


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def whole(ask: Ask, *frames: Frame, end: End = END) -> Any:
    collector = Collector()
    for frame in frames:
        collector.add(frame)
    return ask.whole(collector.gathered(end), SIGNED)


def written(ask: Ask, *deltas: Delta, end: End = END) -> list[Any]:
    assert ask.writer is not None
    writer = ask.writer(SIGNED)
    text = writer.opening() + "".join(map(writer.delta, deltas)) + writer.ending(end)
    *events, rest = text.split("\n\n")
    assert rest == ""
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    return [json.loads(event[6:]) for event in events[:-1]]


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
    }
    ask = native.read_chat(body(prompt="Hello", stop_sequence="--", model="m", **values))
    assert ask.request == core.ChatRequest(
        messages=(core.Message(role="user", content="Hello"),),
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


def test_native_answers() -> None:
    chat = whole(native.read_chat(body(prompt="x")), Delta(0, "a"), Delta(0, "b", reason="stop"))
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7, "cached_tokens": 3}
    tail = {"configuration": {"temperature": 0.5}, "usage": usage, "model": "m", "id": "r1"}
    assert chat == {"message": "ab", "finish_reason": "stop", **tail}
    complete = whole(
        native.read_complete(body(prompt="x", n=2)),
        Delta(1, "b", reason="length"),
        Delta(0, "a", reason="stop"),
    )
    assert complete == {"choices": ["a", "b"], "finish_reasons": ["stop", "length"], **tail}
    vectors = Embeddings(((1.0, 0.0),), 2, "mean", "other name")
    assert whole(native.read_embed(body(input="x")), vectors) == {
        "embeddings": ((1.0, 0.0),),
        "dimension": 2,
        "pooling": "mean",
        "model": "m",
        "id": "r1",
        "usage": usage,
    }


def test_native_events_end_with_the_whole_answer() -> None:
    deltas = [Delta(0, "a\n"), Delta(0, ""), Delta(0, "é", reason="stop")]
    for ask in (
        native.read_chat_sse(body(prompt="x")),
        native.read_chat(body(prompt="x", stream=True)),
    ):
        *pieces, last = written(ask, *deltas)
        assert pieces == [{"delta": "a\n"}, {"delta": "é"}]
        assert last == whole(ask, *deltas)
    ask = native.read_complete(body(prompt="x", n=2, stream=True))
    deltas = [Delta(1, "b", reason="stop"), Delta(0, "a", reason="stop")]
    *pieces, last = written(ask, *deltas)
    assert pieces == [{"delta": "b", "index": 1}, {"delta": "a", "index": 0}]
    assert last["choices"] == ["a", "b"]


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


def test_a_missing_choice_is_an_error() -> None:
    with pytest.raises(EngineError, match="1 texts instead of 2"):
        whole(native.read_complete(body(prompt="x", n=2)), Delta(0, "a", reason="stop"))
    with pytest.raises(EngineError):
        whole(native.read_chat(body(prompt="x")), Delta(0, "never ended"))


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


EMOJI = "🙂".encode()
SCORES = (
    TokenScore(1, b"Hi", -0.5, (TokenScore(1, b"Hi", -0.5), TokenScore(2, b"Ho", -1.5))),
    TokenScore(3, EMOJI[:2], -0.25),
    TokenScore(4, EMOJI[2:], -0.75),
)


def test_chat_logprobs() -> None:
    ask = openai_chat.read(body(messages=HELLO, logprobs=True, top_logprobs=2))
    assert isinstance(ask.request, core.ChatRequest)
    assert ask.request.logprobs == 2
    answer = whole(ask, Delta(0, "Hi🙂", 3, SCORES, "stop"))
    first, second, _ = answer["choices"][0]["logprobs"]["content"]
    assert first == {
        "token": "Hi",
        "logprob": -0.5,
        "bytes": [72, 105],
        "top_logprobs": [
            {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]},
            {"token": "Ho", "logprob": -1.5, "bytes": [72, 111]},
        ],
    }
    assert second["token"] == "\ufffd"
    assert second["bytes"] == list(EMOJI[:2])


def test_chat_answer() -> None:
    answer = whole(openai_chat.read(body(messages=HELLO)), Delta(0, "Hi", 1, reason="length"))
    assert answer == {
        "id": "chatcmpl-r1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m",
        "system_fingerprint": "fp_1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 3},
        },
    }


def test_chat_chunks() -> None:
    ask = openai_chat.read(
        body(messages=HELLO, stream=True, n=2, stream_options={"include_usage": True})
    )
    *chunks, usage = written(ask, Delta(1, "b", 1), Delta(0, "a", 1), Delta(0, "", reason="stop"))
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-r1"}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all(chunk["usage"] is None for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    role = {"role": "assistant", "content": "", "refusal": None}
    assert [(one["index"], one["delta"], one["finish_reason"]) for one in choices] == [
        (0, role, None),
        (1, role, None),
        (1, {"content": "b"}, None),
        (0, {"content": "a"}, None),
        (0, {}, "stop"),
    ]
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 7
    plain = written(openai_chat.read(body(messages=HELLO, stream=True)), Delta(0, "a"))
    assert all("usage" not in chunk for chunk in plain)


def test_chat_chunks_with_logprobs() -> None:
    ask = openai_chat.read(body(messages=HELLO, stream=True, logprobs=True))
    _, chunk, _ = written(ask, Delta(0, "", 1, SCORES[1:2]), Delta(0, "", reason="stop"))
    assert chunk["choices"][0]["delta"] == {"content": ""}
    assert chunk["choices"][0]["logprobs"]["content"][0]["bytes"] == list(EMOJI[:2])


def test_completion_answer_and_chunks_agree() -> None:
    fields = {"prompt": "x", "logprobs": 2, "echo": True}
    deltas = [
        Delta(0, "é ", scores=(TokenScore(9, "é ".encode(), None),)),
        Delta(0, "Hi", 1, SCORES[:1]),
        Delta(0, "🙂", 2, SCORES[1:], "stop"),
    ]
    answer = whole(openai_completions.read(body(**fields)), *deltas)
    assert answer["object"] == "text_completion"
    (choice,) = answer["choices"]
    assert choice["text"] == "é Hi🙂"
    assert choice["logprobs"] == {
        "tokens": ["é ", "Hi", "bytes:\\xf0\\x9f", "bytes:\\x99\\x82"],
        "token_logprobs": [None, -0.5, -0.25, -0.75],
        "top_logprobs": [
            None,
            {"Hi": -0.5, "Ho": -1.5},
            {"bytes:\\xf0\\x9f": -0.25},
            {"bytes:\\x99\\x82": -0.75},
        ],
        "text_offset": [0, 2, 4, 4],
    }
    chunks = written(openai_completions.read(body(**fields, stream=True)), *deltas)
    pieces = [chunk["choices"][0] for chunk in chunks]
    assert "".join(piece["text"] for piece in pieces) == choice["text"]
    for name, values in choice["logprobs"].items():
        assert [value for piece in pieces for value in piece["logprobs"][name]] == values
    assert [piece["finish_reason"] for piece in pieces] == [None, None, "stop"]


def test_offsets_survive_any_cut() -> None:
    text = "aé🙂"
    offsets = Offsets()
    found = [
        offsets.scores([TokenScore(0, bytes([byte]), -1.0)])["text_offset"][0]
        for byte in text.encode()
    ]
    assert found == [0, 1, 1, 2, 2, 2, 2]
    assert spelled("é".encode()) == "é"


def test_embeddings_as_numbers_and_as_base64() -> None:
    vectors = Embeddings(((0.5, -0.25), (1.0, 0.0)), 2, "mean", "x")
    plain = whole(openai_embeddings.read(body(input=["a", "b"])), vectors)
    assert plain["usage"] == {"prompt_tokens": 5, "total_tokens": 7}
    packed = whole(
        openai_embeddings.read(body(input=["a", "b"], encoding_format="base64")), vectors
    )
    for one, other in zip(plain["data"], packed["data"], strict=True):
        raw = base64.b64decode(other["embedding"])
        assert struct.unpack("<2f", raw) == one["embedding"]
        assert one["index"] == other["index"]


def test_embeddings_are_not_shortened() -> None:
    vectors = Embeddings(((0.5, 0.5),), 2, "mean", "x")
    assert whole(openai_embeddings.read(body(input="a", dimensions=2)), vectors)
    with pytest.raises(NotSupported) as refused:
        whole(openai_embeddings.read(body(input="a", dimensions=1)), vectors)
    assert refused.value.param == "dimensions"
    with pytest.raises(InvalidField) as wrong:
        openai_embeddings.read(body(input="a", encoding_format="hex"))
    assert wrong.value.param == "encoding_format"
