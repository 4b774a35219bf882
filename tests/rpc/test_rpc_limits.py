"""What a caller may send at most, and what nonsense does: bounds, odd bytes, odd names."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ports import EchoPort
from rpc_calls import (
    GENERATING,
    HANG_S,
    REQUESTS,
    Wire,
    channel_to,
    desk_of,
    serving,
)

from open_llm_server.rpc import v1
from open_llm_server.rpc.servicer import SERVICE

CHAT = REQUESTS["Chat"].SerializeToString()
FAULTS = (StatusCode.INTERNAL, StatusCode.UNKNOWN)


@pytest.mark.parametrize("name", GENERATING)
async def test_a_message_over_the_limit_is_refused(name: str) -> None:
    port = EchoPort()
    async with serving(port, body_limit=2048) as wire:
        kind = type(REQUESTS[name])
        error = await wire.error(name, kind(prompt="x" * 4096))
        assert error.code() == StatusCode.RESOURCE_EXHAUSTED
        assert "2048" in (error.details() or "")
        assert not port.calls
        assert await wire.whole(name, kind(prompt="x" * 1024))


async def test_compressed_messages_are_not_unpacked() -> None:
    port = EchoPort()
    big = v1.ChatRequest(prompt="x " * 1_000_000).SerializeToString()
    async with serving(port, body_limit=2048) as wire:
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            error = await wire.error("Chat", big, compression=compression)
            assert error.code() == StatusCode.UNIMPLEMENTED
        assert not port.calls


async def test_the_largest_limit_that_can_be_configured_is_taken() -> None:
    async with serving(body_limit=2**31) as wire:
        assert await wire.whole("Chat")


async def test_metadata_over_the_limit_is_refused() -> None:
    async with serving() as wire:
        error = await wire.error("Chat", metadata=[("x-much", "x" * 100_000)])
        assert error.code() == StatusCode.RESOURCE_EXHAUSTED
        assert await wire.whole("Chat", metadata=[("x-some", "x" * 4000)])


async def test_methods_that_there_are_not() -> None:
    async with serving() as wire:
        for path in (f"/{SERVICE}/Nothing", "/Nothing/Chat", f"/{SERVICE}/chat", "/a/b/c"):
            method: Any = wire.channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await method(b"", timeout=HANG_S)
            assert raised.value.code() == StatusCode.UNIMPLEMENTED


async def test_calls_past_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_llm_server.rpc.server.MOST_CALLS", 2)
    port = EchoPort(gate=asyncio.Event())
    async with serving(port) as wire:
        held = [asyncio.create_task(wire.whole("Chat")) for _ in range(2)]
        await asyncio.wait_for(port.until_opened(2), HANG_S)
        error = await wire.error("Chat")
        assert error.code() == StatusCode.RESOURCE_EXHAUSTED
        assert port.gate is not None
        port.gate.set()
        assert [answer.message for answer in await asyncio.gather(*held)] == ["one two three"] * 2
        assert await wire.whole("Chat")


async def test_one_connection_has_so_many_calls_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_llm_server.rpc.server.MOST_STREAMS", 2)
    port = EchoPort(gate=asyncio.Event())
    async with serving(port) as wire:
        # From its first answer on, a client knows the bound, and has others wait.
        await wire.whole("ListModels")
        calls = [asyncio.create_task(code_of(wire, "Chat", CHAT)) for _ in range(6)]
        await asyncio.wait_for(port.until_opened(), HANG_S)
        # Another connection is answered meanwhile.
        async with channel_to(wire.port) as channel:
            assert await Wire(wire.server, wire.desk, wire.port, channel).whole("ListModels")
        assert port.opened <= 2
        assert port.gate is not None
        port.gate.set()
        codes = await asyncio.gather(*calls)
        # One that crosses the end of another on its way is told to come again.
        assert {*codes} <= {StatusCode.OK, StatusCode.UNAVAILABLE}
        assert codes.count(StatusCode.OK) == port.opened


async def test_who_watches_health_takes_nobodys_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_llm_server.rpc.admission.MOST_WATCHES", 2)
    async with serving(desk=desk_of(drain_timeout_s=0.0)) as wire:
        stub: Any = HealthStub(wire.channel)
        watching = [stub.Watch(HealthCheckRequest(), timeout=HANG_S) for _ in range(2)]
        for call in watching:
            assert (await call.read()).status == 1
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Watch(HealthCheckRequest(), timeout=HANG_S).read()
        assert raised.value.code() == StatusCode.RESOURCE_EXHAUSTED
        assert (await stub.Check(HealthCheckRequest(), timeout=HANG_S)).status == 1
        assert await wire.whole("Chat")
        # Their calls do not keep the server from ending either.
        await asyncio.wait_for(wire.server.stop(), HANG_S)


# -- nonsense ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in REQUESTS if name != "ListModels"])
@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x05ab", b"\x12\x02\xff\xfe", b"\x00"])
async def test_garbage_is_refused_with_words(name: str, data: bytes) -> None:
    async with serving() as wire:
        refusal = await wire.refusal(name, data)
        assert (refusal.status, refusal.code) == (StatusCode.INVALID_ARGUMENT, "invalid_value")
        assert await wire.whole(name)


SAMPLING = st.builds(
    v1.Sampling,
    temperature=st.none() | st.floats(),
    top_k=st.none() | st.integers(-(2**63), 2**63 - 1),
    max_tokens=st.none() | st.integers(-2, 3),
    stop_sequence=st.none()
    | st.builds(v1.StopSequence, texts=st.lists(st.sampled_from(["", "a", "é" * 300]))),
    num_beams=st.none() | st.integers(-1, 20),
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MODELS = st.sampled_from([None, "", "echo", "ekho", "\0"])
CHATS = st.builds(
    v1.ChatRequest,
    model=MODELS,
    prompt=st.none() | TEXTS,
    messages=st.lists(
        st.builds(v1.Message, role=st.sampled_from(["user", "", "é"]), content=TEXTS), max_size=2
    ),
    sampling=st.none() | SAMPLING,
)
COMPLETES = st.builds(
    v1.CompleteRequest,
    model=MODELS,
    prompt=st.none() | TEXTS,
    sampling=st.none() | SAMPLING,
    n=st.none() | st.integers(-1, 3) | st.just(2**63 - 1),
)
EMBEDS = st.builds(
    v1.EmbedRequest,
    model=MODELS,
    input=st.lists(
        st.builds(v1.EmbedInput, text=TEXTS)
        | st.builds(
            v1.EmbedInput, token_ids=st.builds(v1.TokenIds, ids=st.lists(st.integers(-1, 2**33)))
        ),
        max_size=3,
    ),
)
MESSAGES = st.one_of(CHATS, COMPLETES, EMBEDS).map(lambda message: message.SerializeToString())


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A message that is nearly one."""
    data = bytearray(draw(MESSAGES))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@given(st.lists(st.tuples(st.sampled_from(list(REQUESTS)), st.binary() | mutated()), max_size=30))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_bytes_break_the_server(calls: list[tuple[str, bytes]]) -> None:
    asyncio.run(asyncio.wait_for(send_all(calls), HANG_S))


async def code_of(wire: Wire, name: str, data: bytes) -> StatusCode:
    try:
        await wire.whole(name, data)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return StatusCode.OK


async def send_all(calls: list[tuple[str, bytes]]) -> None:
    async with serving() as wire:
        for name, data in calls:
            assert await code_of(wire, name, data) not in FAULTS, (name, data)
        assert (await wire.whole("Chat")).message == "one two three"
