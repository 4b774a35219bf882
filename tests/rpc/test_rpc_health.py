"""The standard health service: for the server, for each model, once and while it changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from ports import EchoPort
from rpc_calls import HANG_S, Wire, serving

from open_llm_server.api.desk import Desk
from open_llm_server.api.settings import ApiSettings, ServedModel
from open_llm_server.errors import EngineError, ModelLoading
from open_llm_server.frames import Failure, Info
from open_llm_server.rpc.servicer import SERVICE

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN
LOADING = Failure(ModelLoading("loading", retry_after=7.0).frame())


@pytest.fixture(autouse=True)
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_llm_server.rpc.health.LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("open_llm_server.api.pulse.REMEMBER_S", 0.0)
    monkeypatch.setattr("open_llm_server.api.pulse.LOOK_EVERY_S", 0.0)


def two(first: EchoPort, second: EchoPort, folder: Path | None = None) -> Desk:
    models = [ServedModel("one", (), (first,)), ServedModel("two", (), (second,))]
    return Desk.of(models, ApiSettings(runtime_dir=folder, drain_timeout_s=0.0))


def stub(wire: Wire) -> Any:
    return HealthStub(wire.channel)


async def statuses(wire: Wire, services: Sequence[str]) -> list[int]:
    calls = [stub(wire).Check(HealthCheckRequest(service=one), timeout=HANG_S) for one in services]
    return [(await call).status for call in calls]


@pytest.mark.parametrize(
    "info", [LOADING, Failure(EngineError("x").frame()), Info({"ready": False})]
)
async def test_each_model_and_all_of_them(info: Any) -> None:
    async with serving(desk=two(EchoPort(), EchoPort())) as wire:
        assert await statuses(wire, ["", SERVICE, "one", "two"]) == [SERVING] * 4
    async with serving(desk=two(EchoPort(), EchoPort(info=info))) as wire:
        assert await statuses(wire, ["", SERVICE, "one", "two"]) == [
            *(NOT_SERVING, NOT_SERVING),
            *(SERVING, NOT_SERVING),
        ]


async def test_a_draining_server_serves_nothing(tmp_path: Path) -> None:
    async with serving(desk=two(EchoPort(), EchoPort(), tmp_path)) as wire:
        assert await statuses(wire, ["", "one"]) == [SERVING, SERVING]
        (tmp_path / "draining").touch()
        assert await statuses(wire, ["", "one"]) == [NOT_SERVING, NOT_SERVING]


async def test_a_service_that_there_is_not() -> None:
    async with serving(desk=two(EchoPort(), EchoPort())) as wire:
        for service in ("three", "\0" * 3000, "é"):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub(wire).Check(HealthCheckRequest(service=service), timeout=HANG_S)
            assert raised.value.code() == StatusCode.NOT_FOUND
            assert "'one', 'two'" in (raised.value.details() or "")
        call = stub(wire).Watch(HealthCheckRequest(service="three"), timeout=HANG_S)
        assert (await call.read()).status == SERVICE_UNKNOWN
        call.cancel()


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\x05ab"])
async def test_garbage_breaks_nothing(data: bytes) -> None:
    async with serving(desk=two(EchoPort(), EchoPort())) as wire:
        method: Any = wire.channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await method(data, timeout=HANG_S)
        assert raised.value.code() == StatusCode.INVALID_ARGUMENT
        assert await statuses(wire, [""]) == [SERVING]


async def test_all_at_once() -> None:
    async with serving(desk=two(EchoPort(), EchoPort(info=LOADING))) as wire:
        given = await stub(wire).List(vars(health_pb2)["HealthListRequest"](), timeout=HANG_S)
    assert {name: told.status for name, told in given.statuses.items()} == {
        "": NOT_SERVING,
        SERVICE: NOT_SERVING,
        "one": SERVING,
        "two": NOT_SERVING,
    }


async def test_who_watches_hears_of_each_change() -> None:
    port = EchoPort()
    async with serving(desk=two(EchoPort(), port)) as wire:
        calls = {
            service: stub(wire).Watch(HealthCheckRequest(service=service), timeout=HANG_S)
            for service in ("", "one", "two")
        }
        for call in calls.values():
            assert (await call.read()).status == SERVING
        port.info = LOADING
        assert (await calls["two"].read()).status == NOT_SERVING
        assert (await calls[""].read()).status == NOT_SERVING
        port.info = None
        assert (await calls["two"].read()).status == SERVING
        assert (await calls[""].read()).status == SERVING
        for call in calls.values():
            call.cancel()


async def test_who_watches_hears_of_the_drain(tmp_path: Path) -> None:
    async with serving(desk=two(EchoPort(), EchoPort(), tmp_path)) as wire:
        call = stub(wire).Watch(HealthCheckRequest(), timeout=HANG_S)
        assert (await call.read()).status == SERVING
        (tmp_path / "draining").touch()
        assert (await call.read()).status == NOT_SERVING
        call.cancel()
