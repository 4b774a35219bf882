"""What is decided about a call before its message is read: its key, and whether there is room.

Knows methods by their paths, and which calls are open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from ..api.desk import Desk
from ..errors import OpenLLMError
from .call import Context, caller_of, edge, metadata
from .servicer import METHODS, SERVICE

MOST_PROBES = 256
"""Calls of health at once: they need no key, and must not take the places of those that do."""
MOST_WATCHES = 256
"""Of those that watch health, which stay for ever; they must not take the places of the others."""
_REFLECTION = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"
_KNOWN = {*(f"/{SERVICE}/{name}" for name in METHODS), _REFLECTION}

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]


class Admission(grpc.aio.ServerInterceptor):
    """Of one server. All but health needs a key, what does not exist included."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._open: set[asyncio.Task[Any]] = set()
        self._probes: set[asyncio.Task[Any]] = set()
        self._watches: set[asyncio.Task[Any]] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        details = handler_call_details
        if details.method.startswith(f"/{health.SERVICE_NAME}/"):
            watches = details.method.endswith("/Watch")
            calls = self._watches if watches else self._probes
            if len(calls) >= (MOST_WATCHES if watches else MOST_PROBES):
                return grpc.stream_stream_rpc_method_handler(_no_room)
            _note(calls)
        elif not self._may_call(details):
            return grpc.stream_stream_rpc_method_handler(self._refusing(details.method))
        elif details.method.startswith(f"/{SERVICE}/"):
            _note(self._open)
        return await continuation(details)

    async def quiet(self, limit_s: float) -> None:
        """Until no call is open, or `limit_s` has passed. Who watches health does not count."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + limit_s
        while self._open and (left_s := ends_at - loop.time()) > 0:
            await asyncio.wait(self._open, timeout=left_s)

    def _may_call(self, details: grpc.HandlerCallDetails) -> bool:
        sent = details.invocation_metadata
        try:
            caller_of(self._desk, metadata(sent, "authorization"), metadata(sent, "x-api-key"))
        except OpenLLMError:
            return False
        return True

    def _refusing(self, method: str) -> Any:
        async def refuse(requests: Any, context: Context) -> None:
            # The edge says why, with the call's id, and writes it down.
            async with edge(self._desk, context, method, known=method in _KNOWN):
                pass

        return refuse


async def _no_room(requests: Any, context: Context) -> None:
    await context.abort(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "too many calls of health are open; close those that are not needed",
    )


def _note(calls: set[asyncio.Task[Any]]) -> None:
    """Counts the call that runs now, until it is over."""
    task = asyncio.current_task()
    assert task is not None
    calls.add(task)
    task.add_done_callback(calls.discard)
