"""grpc.health.v1 for the server and for each model, as `/readyz` tells it over HTTP. Needs no key.

Services are "" and open_llm.v1.OpenLLM for all models together, and each model by its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from ..api.desk import Desk
from .call import Context
from .servicer import SERVICE

LOOK_EVERY_S = 1.0
"""Between two looks of who watches."""


class Health(HealthServicer):
    """The standard service."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        status = await self._status(request.service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            names = ", ".join(repr(name) for name in self._names())
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"there is no service {request.service[:100]!a} here; there are {names}",
            )
        return HealthCheckResponse(status=status)

    async def Watch(
        self, request: HealthCheckRequest, context: Context
    ) -> AsyncIterator[HealthCheckResponse]:
        told = None
        while True:
            status = await self._status(request.service)
            if status != told:
                told = status
                yield HealthCheckResponse(status=status)
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
