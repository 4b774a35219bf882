"""Who may call what over gRPC: each method and reflection, with and without keys."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from ports import EchoPort
from rpc_calls import HANG_S, REQUESTS, Metadata, Refusal, Wire, desk_of, serving

from open_llm_server.api.auth import hash_key
from open_llm_server.rpc.servicer import SERVICE

KEYS = ("first-key-123", "second-key-456")
HASHES = tuple(map(hash_key, KEYS))
BEARER = ("authorization", f"Bearer {KEYS[0]}")
NONE: list[Metadata] = [
    [],
    [("authorization", "Bearer wrong")],
    [("authorization", KEYS[0])],
    [("authorization", f"Basic {KEYS[0]}")],
    [("authorization-bin", f"Bearer {KEYS[0]}".encode())],
    [("x-api-key", "")],
    [("x-api-key", "wrong")],
    [("x-api-key", hash_key(KEYS[0]))],
    [("cookie", f"key={KEYS[0]}")],
]
TWO: list[Metadata] = [
    [BEARER, ("x-api-key", KEYS[1])],
    [("x-api-key", KEYS[0]), ("x-api-key", KEYS[1])],
    [BEARER, ("authorization", "Bearer wrong")],
]
ENOUGH: list[Metadata] = [
    [BEARER],
    [("x-api-key", KEYS[0])],
    [("authorization", f"bearer  {KEYS[1]} ")],
    [BEARER, ("x-api-key", KEYS[0])],
]
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def reflected(wire: Wire, metadata: Metadata = ()) -> Any:
    asked = [ServerReflectionRequest(list_services="")]
    stub: Any = ServerReflectionStub(wire.channel)  # type: ignore[arg-type]  # the aio kind too
    return stub.ServerReflectionInfo(iter(asked), metadata=metadata, timeout=HANG_S)


async def reflection_refusal(wire: Wire, metadata: Metadata) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await reflected(wire, metadata).read()
    return Refusal.of(raised.value)


async def test_every_method_wants_a_key() -> None:
    port = EchoPort()
    async with serving(port, api_key_hashes=HASHES) as wire:
        for metadata in NONE:
            refusals = [await wire.refusal(name, metadata=metadata) for name in REQUESTS]
            refusals.append(await reflection_refusal(wire, metadata))
            for refusal in refusals:
                assert refusal.status == StatusCode.UNAUTHENTICATED
                assert refusal.code == "invalid_api_key"
    assert not port.calls
    assert not port.infos


async def test_two_different_keys_are_refused() -> None:
    async with serving(api_key_hashes=HASHES) as wire:
        for metadata in TWO:
            refusals = [await wire.refusal(name, metadata=metadata) for name in REQUESTS]
            refusals.append(await reflection_refusal(wire, metadata))
            for refusal in refusals:
                assert refusal.status == StatusCode.INVALID_ARGUMENT
                assert refusal.info.metadata["param"] == '"authorization"'


async def test_either_name_and_any_key_opens() -> None:
    port = EchoPort()
    async with serving(port, api_key_hashes=HASHES) as wire:
        for metadata in ENOUGH:
            for name in REQUESTS:
                assert await wire.whole(name, metadata=metadata)
            answer = await reflected(wire, metadata).read()
            names = [service.name for service in answer.list_services_response.service]
            assert SERVICE in names
    callers = [call.caller for call in port.calls]
    assert len(set(callers)) == 2
    assert not any(key in caller for key in KEYS for caller in callers)


async def test_reflection_describes_the_service() -> None:
    async with serving() as wire:
        asked = [ServerReflectionRequest(file_containing_symbol=SERVICE)]
        stub: Any = ServerReflectionStub(wire.channel)  # type: ignore[arg-type]  # the aio kind too
        answer = await stub.ServerReflectionInfo(iter(asked), timeout=HANG_S).read()
        (file,) = answer.file_descriptor_response.file_descriptor_proto
        assert b"open_llm.v1" in file


async def test_what_does_not_exist_needs_a_key_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="open_llm_server.access")
    async with serving(api_key_hashes=HASHES) as wire:
        for path in (f"/{SERVICE}/Planted", "/planted.Service/Do", "/grpc.health.v1.Healthy/Check"):
            method: Any = wire.channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await method(b"", timeout=HANG_S)
            assert raised.value.code() == StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await method(b"", metadata=[BEARER], timeout=HANG_S)
            assert raised.value.code() == StatusCode.UNIMPLEMENTED
        counted = wire.desk.metrics.render([])[0].decode()
    # Anybody could fill the metrics with names; the log tells them, quoted and cut.
    assert "lanted" not in counted
    assert "Healthy" not in counted
    assert 'route="unknown"' in counted
    assert any("/planted.Service/Do" in record.getMessage() for record in caplog.records)


async def test_refusals_are_logged_and_counted_without_the_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="open_llm_server.access")
    async with serving(api_key_hashes=HASHES) as wire:
        metadata = [("authorization", "Bearer planted-key"), ("x-request-id", "id-7")]
        refusal = await wire.refusal("Chat", metadata=metadata)
        assert refusal.info.metadata["request_id"] == '"id-7"'
        await reflection_refusal(wire, metadata)
        counted = wire.desk.metrics.render([])[0].decode()
    for route in (f"/{SERVICE}/Chat", REFLECTION):
        assert f'reason="invalid_api_key",route="{route}"' in counted
    lines = [one.getMessage() for one in caplog.records if one.name == "open_llm_server.access"]
    assert [line.split()[2] for line in lines] == ["UNAUTHENTICATED"] * 2
    assert all(line.endswith("id=id-7") and "planted-key" not in line for line in lines)


async def test_health_is_open() -> None:
    async with serving(api_key_hashes=HASHES) as wire:
        stub: Any = HealthStub(wire.channel)
        assert (await stub.Check(HealthCheckRequest(), timeout=HANG_S)).status == 1
        assert (await stub.Watch(HealthCheckRequest(), timeout=HANG_S).read()).status == 1


async def never() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def test_without_a_key_nobody_takes_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even with calls whose message never comes."""
    monkeypatch.setattr("open_llm_server.rpc.server.MOST_CALLS", 2)
    async with serving(desk=desk_of(api_key_hashes=HASHES, drain_timeout_s=0.0)) as wire:
        begin: Any = wire.channel.stream_unary(f"/{SERVICE}/Chat")
        # One after another: while it is being refused, each is a call that counts.
        for _ in range(4):
            assert await begin(never(), timeout=HANG_S).code() == StatusCode.UNAUTHENTICATED
        assert await wire.whole("Chat", metadata=[BEARER])
