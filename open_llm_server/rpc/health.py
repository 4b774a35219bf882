"""grpc.health.v1 for the server and for each model, as `/readyz` tells it over HTTP. Needs no key.

Services are "" and open_llm.v1.OpenLLM for all models together, and each model by its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from ..api.desk import Desk
from .call import Context
from .servicer import SERVICE

_LIST: Any = vars(health_pb2)["HealthListResponse"]  # newer than the types of its package
LOOK_EVERY_S = 1.0
"""Between two looks of who watches."""


class Health:
    """The standard service."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def handlers(self) -> grpc.GenericRpcHandler:
        """Its methods, for grpc's server. They read their messages themselves, as ours do: what
        cannot be read is an error of the caller's then."""
        made: dict[str, Any] = {
            "Check": grpc.unary_unary_rpc_method_handler(self.check),
            "List": grpc.unary_unary_rpc_method_handler(self.list_all),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch),
        }
        return grpc.method_handlers_generic_handler(health.SERVICE_NAME, made)

    async def check(self, data: bytes, context: Context) -> bytes:
        service = await _service(data, context)
        status = await self._status(service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            names = ", ".join(repr(name) for name in self._names())
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"there is no service {service[:100]!a} here; there are {names}",
            )
        return _response(status)

    async def list_all(self, data: bytes, context: Context) -> bytes:
        """The status of every service there is."""
        response = _LIST()
        for name in self._names():
            response.statuses[name].status = await self._status(name)
        serialized: bytes = response.SerializeToString()
        return serialized

    async def watch(self, data: bytes, context: Context) -> AsyncIterator[bytes]:
        service = await _service(data, context)
        told = None
        while True:
            status = await self._status(service)
            if status != told:
                told = status
                yield _response(status)
            await asyncio.sleep(LOOK_EVERY_S)

    def _names(self) -> list[str]:
        return ["", SERVICE, *(model.name for model in self._desk.catalog)]

    async def _status(self, service: str) -> int:
        if service not in self._names():
            return int(HealthCheckResponse.SERVICE_UNKNOWN)
        conditions = await self._desk.pulse.conditions()
        asked = [conditions[service]] if service in conditions else [*conditions.values()]
        serving = not self._desk.drain.active() and all(told.state == "ready" for told in asked)
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        return int(status)


async def _service(data: bytes, context: Context) -> str:
    """The service that is asked about."""
    try:
        return str(HealthCheckRequest.FromString(data).service)
    except DecodeError:
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT,
            "this is no grpc.health.v1.HealthCheckRequest: send one",
        )
        raise


def _response(status: int) -> bytes:
    serialized: bytes = HealthCheckResponse(status=status).SerializeToString()
    return serialized
