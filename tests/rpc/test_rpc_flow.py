"""Calls that are answered, and those whose caller leaves, waits no longer or reads nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from ports import EchoPort, vector_of
from rpc_calls import (
    GENERATING,
    HANG_S,
    REQUESTS,
    STREAMS,
    WORDS,
    Refusal,
    Wire,
    channel_to,
    desk_of,
    serving,
)

from open_llm_server.api.desk import Desk
from open_llm_server.frames import Delta, Frame, Start
from open_llm_server.rpc import v1
from open_llm_server.rpc.servicer import SERVICE

LIMIT_S = 60.0


def samples(desk: Desk, **labels: str) -> float:
    """How many requests were counted under `labels`."""
    text = desk.metrics.render([])[0].decode()
    wanted = {f'{name}="{value}"' for name, value in labels.items()}
    lines = [line for line in text.splitlines() if line.startswith("open_llm_requests_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(w in line for w in wanted))


async def until_counted(desk: Desk, **labels: str) -> None:
    for _ in range(int(HANG_S / 0.01)):
        if samples(desk, **labels):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"nothing was counted as {labels}")


async def rest(call: Any) -> list[Any]:
    """What has not been read of a stream."""
    events = []
    while (event := await call.read()) != grpc.aio.EOF:
        events.append(event)
    return events


# -- answers -----------------------------------------------------------------------------------


async def test_whole_answers() -> None:
    async with serving() as wire:
        chat = await wire.whole("Chat")
        assert (chat.message, chat.model) == (WORDS, "echo")
        assert chat.finish_reason == v1.FINISH_REASON_STOP
        assert chat.configuration.sampling.seed == 7
        assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (3, 3)
        two = v1.CompleteRequest(prompt=WORDS, n=2, sampling=v1.Sampling(max_tokens=1))
        complete = await wire.whole("Complete", two)
        assert [*complete.choices] == ["three", "three"]
        assert [*complete.finish_reasons] == [v1.FINISH_REASON_LENGTH] * 2
        embed = await wire.whole("Embed")
        assert [tuple(vector.values) for vector in embed.embeddings] == [vector_of(WORDS)]
        (model,) = (await wire.whole("ListModels")).models
        assert (model.id, model.status, [*model.aliases]) == ("echo", "ready", ["alias/of-it"])


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_is_a_start_deltas_and_an_end(name: str) -> None:
    async with serving() as wire:
        events = await wire.whole(name)
        whole = await wire.whole(name.removesuffix("Stream"))
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], {*kinds[1:-1]}, kinds[-1]) == ("start", {"delta"}, "end")
    text = "".join(event.delta.text for event in events)
    assert text == (whole.message if name == "ChatStream" else whole.choices[0])
    assert sum(event.delta.tokens for event in events) == whole.usage.completion_tokens
    assert events[0].start.prompt_tokens == whole.usage.prompt_tokens
    assert events[-1].end.usage == whole.usage
    assert events[-1].end.configuration == whole.configuration


@pytest.mark.parametrize("name", list(REQUESTS))
async def test_the_request_id_comes_back_and_is_in_the_log(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="open_llm_server.access")
    port = EchoPort()
    async with serving(port) as wire:
        call = wire.call(name, metadata=[("x-request-id", "id-7"), ("authorization", "Bearer k-7")])
        await wire_read(call, name)
        trailing = await call.trailing_metadata()
        assert dict(trailing)["x-request-id"] == "id-7"
        await until_counted(wire.desk, code="OK", route=f"/{SERVICE}/{name}")
    assert [call.id for call in port.calls] == ["id-7"] * len(port.calls)
    (line,) = [one.getMessage() for one in caplog.records if one.name == "open_llm_server.access"]
    assert line.startswith(f"RPC /{SERVICE}/{name} OK ")
    assert line.endswith(" id=id-7")
    assert "k-7" not in line
    assert WORDS not in line


@pytest.mark.parametrize("bad", ["with space", "x" * 129, "a;b"])
async def test_request_ids_that_are_none_are_replaced(bad: str) -> None:
    async with serving() as wire:
        call = wire.call("Chat", metadata=[("x-request-id", bad)])
        assert len(dict(await call.trailing_metadata())["x-request-id"]) == 32
        refusal = await wire.refusal("Chat", b"\xff", metadata=[("x-request-id", "id-8")])
        assert refusal.info.metadata["request_id"] == '"id-8"'


async def test_calls_are_counted_by_their_status() -> None:
    async with serving() as wire:
        await wire.whole("Chat")
        await wire.whole("ChatStream")
        for index in range(20):
            await wire.error("Chat", v1.ChatRequest(prompt="x", model=f"planted-{index}"))
        desk = wire.desk
        counted = {"route": f"/{SERVICE}/Chat", "model": "unknown", "code": "NOT_FOUND"}
        assert samples(desk, **counted) == 20
        for name in ("Chat", "ChatStream"):
            ok = {"route": f"/{SERVICE}/{name}", "model": "echo", "code": "OK", "reason": "stop"}
            assert samples(desk, **ok) == 1
    assert "planted" not in desk.metrics.render([])[0].decode()


# -- callers that leave ------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERATING)
async def test_a_deadline_ends_the_generation(name: str) -> None:
    port = EchoPort(stalls=True, after=2)
    async with serving(port) as wire:
        error = await wire.error(name, timeout=0.3)
        assert error.code() == StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(port.until_closed(), HANG_S)
        (call,) = port.calls
        assert call.deadline_s is not None
        assert 0 < call.deadline_s < 1
        reason = {"code": "DEADLINE_EXCEEDED", "reason": "deadline_exceeded"}
        await until_counted(wire.desk, route=f"/{SERVICE}/{name}", **reason)


async def test_without_a_deadline_the_servers_own_limit_holds() -> None:
    port = EchoPort()
    async with serving(port, timeout_s=9.0) as wire:
        await wire.whole("Chat", timeout=None)
        await wire.whole("Chat", timeout=3600)
    assert [call.deadline_s for call in port.calls] == [9.0, 9.0]


@pytest.mark.parametrize("name", GENERATING)
async def test_a_cancel_ends_the_generation(name: str) -> None:
    port = EchoPort(stalls=True, after=2)
    async with serving(port) as wire:
        call = wire.call(name)
        reading = asyncio.create_task(wire_read(call, name))
        await asyncio.wait_for(port.until_opened(), HANG_S)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(port.until_closed(), HANG_S)
        left = {"code": "CANCELLED", "reason": "client_gone", "model": "echo"}
        await until_counted(wire.desk, route=f"/{SERVICE}/{name}", **left)
        port.stalls = False
        assert await wire.whole(name)


async def wire_read(call: Any, name: str) -> None:
    if name in STREAMS:
        async for _ in call:
            pass
    else:
        await call


async def test_a_lost_connection_ends_the_generation() -> None:
    port = EchoPort(stalls=True, after=2)
    async with serving(port) as wire:
        channel = channel_to(wire.port)
        other = Wire(wire.server, wire.desk, wire.port, channel)
        calls = [other.call(name) for name in STREAMS]
        await asyncio.wait_for(port.until_opened(2), HANG_S)
        await channel.close()
        await asyncio.wait_for(port.until_closed(), HANG_S)
        assert all([await call.code() == StatusCode.CANCELLED for call in calls])


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
                yield Delta(0, "word " * 1000, 1)
        finally:
            self.closed.set()


async def test_a_client_that_reads_nothing_is_given_up() -> None:
    port = Endless()
    async with serving(port, write_timeout_s=0.2) as wire:
        # A stream that is begun and not read: flow control holds the server back.
        call = wire.call("ChatStream")
        await asyncio.wait_for(port.closed.wait(), HANG_S)
        assert port.given * 5000 < 64 * 1024**2
        # Once it reads on, it hears of it.
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await rest(call)
        assert raised.value.code() == StatusCode.CANCELLED
        assert "did not read" in (raised.value.details() or "")
        await until_counted(wire.desk, code="CANCELLED", reason="client_gone")


async def test_a_client_that_reads_nothing_and_leaves_leaves_nothing_behind() -> None:
    port = Endless()
    async with serving(port, write_timeout_s=0.2) as wire:
        call = wire.call("ChatStream")
        await asyncio.wait_for(port.closed.wait(), HANG_S)
        call.cancel()
        await until_counted(wire.desk, code="CANCELLED", reason="client_gone")


# -- draining ----------------------------------------------------------------------------------


def draining_desk(folder: Path, port: EchoPort, limit_s: float = LIMIT_S) -> Desk:
    return desk_of(port, runtime_dir=folder, drain_timeout_s=limit_s)


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_llm_server.api.pulse.LOOK_EVERY_S", 0.0)


@pytest.mark.usefixtures("watchful")
async def test_a_stopping_server_lets_answers_end_and_refuses_new_calls(tmp_path: Path) -> None:
    port = EchoPort(gate=asyncio.Event())
    async with serving(desk=draining_desk(tmp_path, port)) as wire:
        open_call = wire.call("ChatStream")
        assert (await open_call.read()).WhichOneof("event") == "start"
        (tmp_path / "draining").touch()
        stopping = asyncio.create_task(wire.server.stop())
        for name in GENERATING:
            refusal = await wire.refusal(name)
            assert (refusal.status, refusal.code) == (StatusCode.UNAVAILABLE, "draining")
            assert refusal.retry_after_s
        async with channel_to(wire.port) as channel:
            other = Wire(wire.server, wire.desk, wire.port, channel)
            assert (await other.refusal("Chat")).code == "draining"
        assert not stopping.done()
        assert port.gate is not None
        port.gate.set()
        events = await rest(open_call)
        assert events[-1].WhichOneof("event") == "end"
        await asyncio.wait_for(stopping, HANG_S)


@pytest.mark.usefixtures("watchful")
@pytest.mark.parametrize("name", GENERATING)
async def test_what_outlasts_the_drain_limit_is_cut(name: str, tmp_path: Path) -> None:
    port = EchoPort(stalls=True, after=2)
    async with serving(desk=draining_desk(tmp_path, port)) as wire:
        ended = asyncio.create_task(wire.error(name))
        await asyncio.wait_for(port.until_opened(), HANG_S)
        sign = tmp_path / "draining"
        sign.touch()
        then = time.time() - LIMIT_S - 1
        os.utime(sign, (then, then))
        refusal = Refusal.of(await ended)
        assert (refusal.status, refusal.code) == (StatusCode.UNAVAILABLE, "draining")
        await port.until_closed()


async def test_a_server_without_a_supervisor_stops_in_the_same_way() -> None:
    port = EchoPort(gate=asyncio.Event())
    async with serving(port, drain_timeout_s=LIMIT_S) as wire:
        open_call = wire.call("ChatStream")
        assert (await open_call.read()).WhichOneof("event") == "start"
        stopping = asyncio.create_task(wire.server.stop())
        await asyncio.sleep(0)
        assert (await wire.refusal("Chat")).code == "draining"
        assert port.gate is not None
        port.gate.set()
        events = await rest(open_call)
        assert events[-1].WhichOneof("event") == "end"
        await asyncio.wait_for(stopping, HANG_S)


async def test_a_server_without_a_supervisor_cuts_in_the_same_way() -> None:
    port = EchoPort(stalls=True, after=2)
    async with serving(port, drain_timeout_s=0.0) as wire:
        ended = asyncio.create_task(wire.refusal("Chat"))
        await asyncio.wait_for(port.until_opened(), HANG_S)
        await asyncio.wait_for(wire.server.stop(), HANG_S)
        assert (await ended).code == "draining"
        await port.until_closed()
