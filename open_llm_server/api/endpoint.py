"""Routes as ASGI apps: method dispatch, and the unknown path. Knows no route's meaning."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.types import Receive, Scope, Send

from ..errors import MethodNotAllowed, RouteNotFound
from .exchange import Exchange

EXCHANGE = "open_llm_server.exchange"
"""Where the edge puts the Exchange into an ASGI scope."""
Handler = Callable[[Exchange], Awaitable[None]]


class Endpoint:
    """One path. HEAD is answered where GET is, without its body."""

    def __init__(self, path: str, handlers: Mapping[str, Handler]) -> None:
        self.path = path
        self._handlers = dict(handlers)
        if "GET" in self._handlers:
            self._handlers.setdefault("HEAD", self._handlers["GET"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope[EXCHANGE]
        exchange.route = self.path
        handler = self._handlers.get(exchange.method)
        if handler is None:
            allowed = ", ".join(self._handlers)
            exchange.extra_headers.append((b"allow", allowed.encode()))
            raise MethodNotAllowed(f"{self.path} answers to {allowed} only")
        await handler(exchange)


class NoRoute:
    """Any other path."""

    def __init__(self, paths: Sequence[str], *, probes_only: bool = False) -> None:
        self._paths = paths
        self._probes_only = probes_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"][:200]
        near = difflib.get_close_matches(path.rstrip("/") or "/", self._paths, n=1, cutoff=0.75)
        hint = f"did you mean {near[0]}?" if near else "/ lists the routes there are"
        if self._probes_only:
            hint = f"this server speaks gRPC, and HTTP answers {', '.join(self._paths)} only"
        raise RouteNotFound(f"there is nothing at {path!a}; {hint}")
