"""Servers that say the wrong thing: a clear error in bounded memory, and never a hang."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hostile_servers import (
    ANSWERS,
    CHAT,
    MODEL,
    STREAM,
    WAYS,
    Peer,
    always,
    ask,
    chunked,
    events,
    http,
    saying,
    streamed,
    talking_to,
)
from open_llm_client import BadAnswer, ConnectionLost, OpenLLMError, RequestError, TimedOut
from open_llm_client._transport import MAX_ANSWER

WRONG = [None, True, 7, -1.5, "text", [], {}, [1], ["a"], {"a": 1}]
MIB = 1024**2
pytestmark = pytest.mark.parametrize("way", WAYS)


def fields(call: str) -> list[str]:
    return [*ANSWERS[call]] if call != "models" else ["data"]


@pytest.mark.parametrize("call", ANSWERS)
def test_wrong_types_at_every_field(way: str, call: str) -> None:
    answers: list[bytes] = []
    for name in fields(call):
        right = ANSWERS[call][name]
        wrong = [value for value in WRONG if type(value) is not type(right)]
        answers += [http({**ANSWERS[call], name: value}) for value in wrong]
        answers.append(http({k: v for k, v in ANSWERS[call].items() if k != name}))
    with talking_to(saying(*answers)) as (_, client):
        for _ in answers:
            with pytest.raises(BadAnswer, match="/"):
                ask("threads", client, call)
    with talking_to(always(answers[0])) as (_, client), pytest.raises(BadAnswer):
        ask(way, client, call)


@pytest.mark.parametrize("name", MODEL)
def test_wrong_types_within_a_model(way: str, name: str) -> None:
    wrong = {**MODEL, name: 1.5}
    with talking_to(always(http({"data": [wrong]}))) as (_, client):
        with pytest.raises(BadAnswer, match=name):
            ask(way, client, "models")


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("chat", {**CHAT, "usage": {**CHAT["usage"], "total_tokens": "3"}}),
        ("complete", {**ANSWERS["complete"], "finish_reasons": ["stop"]}),
        ("complete", {**ANSWERS["complete"], "choices": [1, 2]}),
        ("embed", {**ANSWERS["embed"], "embeddings": [[0.5, True], [0.5, 1]]}),
        ("embed", {**ANSWERS["embed"], "embeddings": [[0.5]]}),
        ("health", {**ANSWERS["health"], "status": "fine"}),
        ("health", {**ANSWERS["health"], "models": {"one": None}}),
    ],
)
def test_values_that_do_not_fit(way: str, call: str, body: Any) -> None:
    with talking_to(always(http(body))) as (_, client), pytest.raises(BadAnswer):
        ask(way, client, call)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Hello</html>",
        b"null",
        b"[]",
        b'{"message": "a',
        b'{"message": "\xff"}',
        b'{"message": NaN}',
        b"[" * 100_000,
        b'{"dimension": ' + b"9" * 10_000 + b"}",
    ],
)
def test_bodies_that_are_no_answer(way: str, body: bytes) -> None:
    with talking_to(always(http(body))) as (server, client):
        for call in ANSWERS:
            with pytest.raises(BadAnswer, match=server.url):
                ask(way, client, call)


@pytest.mark.parametrize("status", [200, 201, 204, 418, 500, 502])
def test_pages_of_other_programs(way: str, status: int) -> None:
    page = b"" if status == 204 else b"<html>Hello</html>"
    answer = http(page, status=status, kind="text/html")
    with talking_to(always(answer)) as (server, client):
        with pytest.raises(BadAnswer, match=f"{server.url}/chat.*{status}.*text/html"):
            ask(way, client, "chat")
        with pytest.raises(BadAnswer, match=f"{server.url}/chat.*{status}.*text/html"):
            streamed(way, client, "chat")


def test_a_stream_for_a_whole_answer_and_the_other_way_round(way: str) -> None:
    with talking_to(always(chunked(events(*STREAM)))) as (_, client):
        with pytest.raises(BadAnswer, match="application/json"):
            ask(way, client, "chat")
    with talking_to(always(http(CHAT))) as (_, client):
        with pytest.raises(BadAnswer, match="text/event-stream"):
            streamed(way, client, "chat")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(way: str, status: int) -> None:
    with talking_to(always(http(CHAT))) as (other, _):
        answer = http(b"", status=status, location=f"{other.url}/chat")
        with talking_to(always(answer), api_key="secret-key") as (_, client):
            with pytest.raises(BadAnswer, match=f"sends on to {other.url}") as raised:
                ask(way, client, "chat")
        assert not other.peers
        assert "secret" not in str(raised.value)


def test_endless_interim_answers_end_with_the_time(way: str) -> None:
    def behave(peer: Peer) -> None:
        peer.request()
        while True:
            peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)

    with talking_to(behave) as (_, client), pytest.raises(TimedOut):
        ask(way, client, "chat", timeout=0.2)


def test_a_switch_of_protocols_is_no_answer(way: str) -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"
    with talking_to(saying(answer)) as (_, client), pytest.raises(OpenLLMError):
        ask(way, client, "chat")


def test_nothing_is_unpacked(way: str) -> None:
    bomb = gzip.compress(b"0" * 50 * MIB)
    with talking_to(always(http(bomb, content_encoding="gzip"))) as (server, client):
        with pytest.raises(BadAnswer, match="gzip"):
            ask(way, client, "chat")
        assert sum(peer.sent for peer in server.peers) < MIB


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"\x00" * 200, b"\r\n" * 50])
def test_what_is_not_http(way: str, garbage: bytes) -> None:
    with talking_to(saying(garbage)) as (_, client):
        with pytest.raises((BadAnswer, ConnectionLost)):
            ask(way, client, "chat")


def test_endless_headers_are_cut(way: str) -> None:
    def behave(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            peer.send(b"x-more: " + b"a" * 1000 + b"\r\n")

    with talking_to(behave) as (server, client):
        with pytest.raises(BadAnswer):
            ask(way, client, "chat")
        assert server.ended.acquire(timeout=60)
        assert server.peers[0].sent < 16 * MIB


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("lines", [False, True])
def test_endless_bodies_are_cut(
    way: str, stream: bool, lines: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open_llm_client._http_reading.MAX_ANSWER", MIB)
    piece = (b"data: aaaaaaaaaaaaaaaaaaaaaaaa\n" if lines else b"a" * 32) * 512

    def behave(peer: Peer) -> None:
        peer.request()
        kind = "text/event-stream" if stream else "application/json"
        peer.send(chunked(end=False, kind=kind))
        while True:
            peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))

    with talking_to(behave) as (server, client):
        with pytest.raises(BadAnswer, match=r"1 MiB|1048576"):
            (streamed if stream else ask)(way, client, "chat")
        assert server.ended.acquire(timeout=60)
        # What the system's buffers hold comes on top.
        assert server.peers[0].sent < 32 * MIB


def test_endless_text_is_cut(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_llm_client._transport.MAX_ANSWER", MIB)

    def behave(peer: Peer) -> None:
        peer.request()
        peer.send(chunked(end=False))
        delta = events({"delta": "a" * 10_000}, done=False)
        while True:
            peer.send(b"%x\r\n%b\r\n" % (len(delta), delta))

    with talking_to(behave) as (server, client):
        with pytest.raises(BadAnswer, match="max_tokens"):
            streamed(way, client, "chat")
        assert server.ended.acquire(timeout=60)
        assert server.peers[0].sent < 32 * MIB


def test_a_length_that_is_too_long_is_not_waited_for(way: str) -> None:
    answer = http(b"{", content_length=MAX_ANSWER + 1)
    with talking_to(saying(answer)) as (_, client):
        with pytest.raises(BadAnswer, match="64 MiB"):
            ask(way, client, "chat")
    with talking_to(saying(http(b"{", content_length="9" * 50))) as (_, client):
        with pytest.raises(OpenLLMError):
            ask(way, client, "chat")


@pytest.mark.parametrize(
    "body",
    [
        events(*STREAM[:2], done=False),
        events(STREAM[0]),
        events(*STREAM, done=False),
        events(*STREAM) + events({"delta": "more"}, done=False),
        events(*STREAM, CHAT),
        events(*STREAM, {"delta": "more"}),
        events({"delta": 7}, CHAT),
        events({"delta": "a", "index": -1}, CHAT),
        events({"delta": "a", "index": "0"}, CHAT),
        events({"delta": "a", "index": 10**6}, CHAT),
        events([1], CHAT),
        events({"neither": 1}),
        events(STREAM[0], {**CHAT, "message": 7}),
        b"data: {\n\n",
        b"data: \xff\n\n",
        b'data: {"delta": "\xc3"}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"",
        b"\n\n\n",
        b": only a comment\n\n",
        b"event: error\ndata: nothing\n\n",
    ],
)
def test_streams_that_are_none(way: str, body: bytes) -> None:
    with talking_to(saying(chunked(body))) as (_, client):
        with pytest.raises((BadAnswer, ConnectionLost)):
            streamed(way, client, "chat")


@pytest.mark.parametrize("error", [None, {}, {"error": None}, {"error": {"message": 3}}, [1]])
def test_errors_in_streams_that_say_nothing(way: str, error: Any) -> None:
    body = events(STREAM[0], done=False) + b"event: error\n" + events(error, done=False)
    with talking_to(saying(chunked(body))) as (_, client):
        with pytest.raises(OpenLLMError, match="see its log"):
            streamed(way, client, "chat")


def test_an_error_within_a_stream(way: str) -> None:
    error = {"error": {"message": "the engine broke", "code": "engine_error", "request_id": "r"}}
    body = events(STREAM[0], done=False) + b"event: error\n" + events(error, done=False)
    with talking_to(saying(chunked(body))) as (_, client):
        stream = client.chat("Hello", stream=True)
        assert next(stream).text == "Hello"  # it came before the error, in one piece with it
        with pytest.raises(OpenLLMError, match="the engine broke"):
            next(stream)
    with talking_to(saying(chunked(body)), retries=3) as (server, client):
        with pytest.raises(OpenLLMError, match="the engine broke") as raised:
            streamed(way, client, "chat")
        assert raised.value.code == "engine_error" and raised.value.request_id == "r"
        assert len(server.peers) == 1


def test_half_a_character_at_every_cut(way: str) -> None:
    said = {**CHAT, "message": "día 🌞"}
    data = b'data: {"delta": "d\xc3\xada \xf0\x9f\x8c\x9e"}\n\n' + events(said)
    pieces = [data[place : place + 1] for place in range(len(data))]
    with talking_to(saying(chunked(*pieces))) as (_, client):
        deltas, stream = streamed(way, client, "chat")
        assert [delta.text for delta in deltas] == ["día 🌞"] == [stream.text]


def test_texts_of_errors_are_printable_and_bounded(way: str) -> None:
    message = "\x1b[31mred\x00" + "a" * MIB
    answer = http({"error": {"message": message, "code": "\x1b" * 500}}, status=400)
    with talking_to(always(answer)) as (_, client):
        with pytest.raises(RequestError) as raised:
            ask(way, client, "chat")
    assert "\x1b" not in str(raised.value) + raised.value.code
    assert len(str(raised.value)) < 30_000 and len(raised.value.code) <= 100


def test_what_a_request_looks_like(way: str) -> None:
    seen: list[bytes] = []

    def behave(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            seen.append(request)
            peer.send(http(CHAT))

    options = {"api_key": "key-1", "headers": {"X-Team": "blue"}, "model": "one"}
    with talking_to(behave, **options) as (_, client):
        ask(way, client, "chat", "Hello", top_k=3, request_id="mine")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = {line.lower() for line in head.split(b"\r\n")}
    assert b"post /chat http/1.1" in lines
    assert {b"authorization: bearer key-1", b"x-team: blue", b"x-request-id: mine"} <= lines
    assert {b"accept-encoding: identity", b"content-type: application/json"} <= lines
    assert json.loads(body) == {"prompt": "Hello", "top_k": 3, "model": "one"}
