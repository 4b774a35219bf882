"""The wire formats without HTTP, outwards: frames to answers and events."""

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
from open_llm_server.errors import EngineError, InvalidField, NotSupported
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


def test_a_missing_choice_is_an_error() -> None:
    with pytest.raises(EngineError, match="1 texts instead of 2"):
        whole(native.read_complete(body(prompt="x", n=2)), Delta(0, "a", reason="stop"))
    with pytest.raises(EngineError):
        whole(native.read_chat(body(prompt="x")), Delta(0, "never ended"))


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
