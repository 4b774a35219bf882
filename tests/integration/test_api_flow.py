"""The way of a request that is answered: streams, waiting, clients that leave or read nothing,
draining, and the line in the log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from answered_texts import BODIES, CHAT, HELLO, STREAMED, body, texts
from asgi import Client, app_of, call, get, post
from ports import EchoPort

from open_llm_server.api.app import ApiSettings, ServedModel, create_app
from open_llm_server.frames import Delta, Frame, Queued, Start

# -- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", STREAMED)
async def test_a_stream(path: str) -> None:
    reply = await post(app_of(), path, body(path, stream=True))
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.events[-1] == "[DONE]"
    assert texts(reply) in ("one two three", "three two one")


async def test_the_call_that_the_model_gets() -> None:
    port = EchoPort()
    headers = [("x-request-id", "my-id_1.2"), ("x-request-timeout", "7.5")]
    reply = await post(app_of(port), "/chat", {"prompt": "x", "top_k": 3}, headers)
    (call_,) = port.calls
    assert (call_.id, call_.op, call_.caller, call_.deadline_s) == ("my-id_1.2", "chat", "", 7.5)
    assert call_.request.model_dump(exclude_unset=True)["sampling"]["top_k"] == 3
    assert reply.headers["x-request-id"] == "my-id_1.2"
    assert reply.json["configuration"]["top_k"] == 3
    await post(app_of(port, timeout_s=9), "/chat", {"prompt": "x"})
    assert port.calls[-1].deadline_s == 9


@pytest.mark.parametrize("bad", ["", "with space", "x" * 129, "a\x1b[31m", "é", "a;b"])
async def test_request_ids_that_are_none_are_replaced(bad: str) -> None:
    reply = await post(app_of(), "/chat", BODIES["/chat"], [("x-request-id", bad)])
    assert reply.status == 200
    assert len(reply.headers["x-request-id"]) == 32


async def test_models_are_found_by_name_alias_or_not_at_all() -> None:
    one, two = EchoPort(), EchoPort()
    app = create_app(
        [ServedModel("one", (), (one,)), ServedModel("two", ("deux",), (two,))], ApiSettings()
    )
    for named, answered in ((None, one), ("one", one), ("two", two), ("deux", two)):
        before = len(answered.calls)
        reply = await post(app, "/chat", {"prompt": "x"} | ({"model": named} if named else {}))
        assert reply.json["model"] == (named or "one")
        assert len(answered.calls) == before + 1


async def test_ignored_parameters_are_listed() -> None:
    fields = {"prompt": "x", "top_a": 1, "mirostat": 2, "a\r\nb": 3}
    for stream in (False, True):
        reply = await post(app_of(), "/chat", {**fields, "stream": stream})
        assert reply.headers["x-ignored-parameters"] == "top_a, mirostat, a??b"
    reply = await post(app_of(), "/chat", {"prompt": "x", "top_k": 1})
    assert "x-ignored-parameters" not in reply.headers


async def test_many_vectors_are_written_in_turns_and_in_order() -> None:
    words = [f"word {index}" for index in range(200)]
    one_by_one = [
        (await post(app_of(), "/embed", {"input": word})).json["embeddings"][0]
        for word in words[:3]
    ]
    reply = await post(app_of(), "/embed", {"input": words})
    assert len(reply.json["embeddings"]) == 200
    assert reply.json["embeddings"][:3] == one_by_one
    assert reply.json["dimension"] == 4


# -- waiting -----------------------------------------------------------------------------------


async def test_waiting_is_told_in_a_header_and_in_comments() -> None:
    frames = [Queued(3, None), Queued(2, 1.25)]
    reply = await post(app_of(EchoPort(frames=frames)), CHAT, body(CHAT, stream=True))
    assert reply.headers["x-queue-position"] == "3"
    comments = [line for line in reply.text.splitlines() if line.startswith(":")]
    assert comments == [": queued position=3", ": queued position=2 eta=1.2s"]
    assert reply.events[-1] == "[DONE]"
    reply = await post(app_of(EchoPort(frames=frames)), CHAT, HELLO)
    assert reply.json["choices"][0]["message"]["content"] == "one two three"


async def test_a_waiting_stream_is_kept_alive() -> None:
    port = EchoPort(gate=asyncio.Event())
    async with Client(
        app_of(port, keep_alive_s=0.01),
        "POST",
        "/chat-sse",
        pieces=[b'{"prompt": "one"}'],
    ) as client:
        assert (await client.start()).status == 200
        assert [await client.piece() for _ in range(3)] == [b": keep-alive\n\n"] * 3
        assert port.gate is not None
        port.gate.set()
        text = b""
        while b"[DONE]" not in text:
            text += await client.piece()
    assert b'"one"' in text


async def test_deltas_that_are_ready_together_are_sent_together() -> None:
    prompt = " ".join(["word"] * 50)
    async with Client(
        app_of(), "POST", "/chat-sse", pieces=[b'{"prompt": "%s"}' % prompt.encode()]
    ) as client:
        await client.start()
        text, pieces = b"", 0
        while b"[DONE]" not in text:
            text += await client.piece()
            pieces += 1
    assert text.count(b'"delta"') == 50
    assert pieces < 10


# -- clients that leave ------------------------------------------------------------------------


@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_closes_the_stream(path: str, stream: bool) -> None:
    port = EchoPort(gate=asyncio.Event())
    sent = json.dumps(body(path, stream=stream)).encode()
    async with Client(app_of(port), "POST", path, pieces=[sent]) as client:
        if stream or path == "/chat-sse":
            await client.start()
        await port.until_opened()
        client.leave()
        await port.until_closed()
        await client.task
    assert port.opened == port.closed == 1


async def test_a_client_that_leaves_before_the_first_frame_closes_the_stream() -> None:
    port = EchoPort(stalls=True)
    async with Client(
        app_of(port),
        "POST",
        CHAT,
        pieces=[b'{"stream": true, "messages": [', b'{"role": "user",', b'"content": "x"}]}'],
    ) as client:
        await port.until_opened()
        client.leave()
        await client.task
    assert port.closed == 1
    assert client.messages.empty()


async def test_a_server_that_stops_closes_the_stream() -> None:
    port = EchoPort(gate=asyncio.Event())
    client = Client(app_of(port), "POST", "/chat", pieces=[b'{"prompt": "x"}'])
    async with client:
        await port.until_opened()
        client.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client.task
        await port.until_closed()
        client.task = asyncio.create_task(asyncio.sleep(0))


class Deaf(Client):
    """A client that keeps its connection and reads nothing."""

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()
        await super()._send(message)


@pytest.mark.parametrize("stream", [b"true", b"false"])
async def test_a_client_that_reads_nothing_is_given_up(stream: bytes) -> None:
    port = EchoPort()
    sent = b'{"prompt": "one two", "stream": %s}' % stream
    async with Deaf(app_of(port, write_timeout_s=0.02), "POST", "/chat", pieces=[sent]) as client:
        await port.until_closed()
        await client.task


class Endless:
    """Words without end, as fast as they are taken."""

    def __init__(self) -> None:
        self.given = 0
        self.closed = asyncio.Event()

    async def stream(self, request: str, *, session: str) -> AsyncGenerator[Frame, None]:
        try:
            yield Start(1)
            while True:
                self.given += 1
                yield Delta(0, "word ", 1)
        finally:
            self.closed.set()


async def test_a_slow_reader_is_not_read_ahead_for_without_end() -> None:
    port = Endless()
    async with Deaf(
        app_of(port, write_timeout_s=0.1), "POST", "/chat-sse", pieces=[b'{"prompt": "x"}']
    ):
        await port.closed.wait()
    assert port.given <= 1024


# -- draining ----------------------------------------------------------------------------------


async def test_a_draining_server_finishes_and_takes_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open_llm_server.api.pulse.LOOK_EVERY_S", 0.0)
    port = EchoPort(gate=asyncio.Event())
    app = app_of(port, runtime_dir=tmp_path)
    async with Client(app, "POST", "/chat", pieces=[b'{"prompt": "one"}']) as client:
        await port.until_opened()
        assert (await get(app, "/readyz")).status == 200
        (tmp_path / "draining").touch()
        reply = await get(app, "/readyz")
        assert (reply.status, reply.json["status"]) == (503, "draining")
        assert int(reply.headers["retry-after"]) >= 1
        for path in STREAMED:
            reply = await post(app, path, body(path, stream=True))
            assert (reply.status, reply.error["code"]) == (503, "draining")
            assert int(reply.headers["retry-after"]) >= 1
        assert (await get(app, "/livez")).status == 200
        assert (await get(app, "/metrics")).status == 200
        assert port.gate is not None
        port.gate.set()
        assert (await client.whole()).json["message"] == "one"


# -- log ---------------------------------------------------------------------------------------


async def test_one_access_line_without_secrets_or_line_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="open_llm_server.access")
    app = app_of()
    headers = [("authorization", "Bearer planted-key"), ("x-request-id", "id-7")]
    await post(app, "/chat", {"prompt": "planted-prompt two"}, headers)
    await call(app, "GET", "/a\r\nb\x1b[31m?planted-query", headers=headers)
    lines = [one.getMessage() for one in caplog.records if one.name == "open_llm_server.access"]
    assert len(lines) == 2
    assert lines[0].startswith("POST /chat 200 ")
    assert lines[0].endswith("ms tokens=2+2 model=echo reason=stop id=id-7")
    assert "\\r\\nb\\x1b[31m" in lines[1]
    for line in lines:
        assert line.isprintable()
        assert "planted-key" not in line
        assert "planted-prompt" not in line
