"""The outermost layer: request ids, hosts, keys, the one error shape, the access log.

Whoever may not call is refused here, by path and headers alone, before any routing. Pure ASGI:
it stands around every chunk of every stream.
"""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import EngineError, OpenLLMError
from .auth import identify
from .desk import Desk
from .endpoint import EXCHANGE
from .exchange import ClientGone, Exchange, logged_error
from .hosts import HostGuard

log = logging.getLogger(__name__)

PUBLIC = frozenset({"/", "/livez", "/readyz"})
"""Paths that need no key. All others do, those that do not exist included."""
_SAFE_METHODS = ("GET", "HEAD")


class Edge:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self._app = app
        self._desk = desk
        settings = desk.settings
        self._guard = HostGuard(
            settings.host,
            allowed_hosts=settings.allowed_hosts,
            allowed_origins=settings.allowed_origins,
            has_keys=bool(settings.api_key_hashes),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._exchange(scope, receive, send)
        else:
            # There are no websockets here, so nobody gets one without a key either.
            await send({"type": "websocket.close", "code": 1008})

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        scope[EXCHANGE] = exchange
        try:
            self._admit(exchange)
            await self._app(scope, receive, send)
        except ClientGone:
            exchange.reason = "client_gone"
        except OpenLLMError as error:
            if exchange.started:
                raise
            await exchange.refuse(error)
        except Exception:
            # Once bytes are out, only a broken connection can say that there will be no more.
            if exchange.started:
                raise
            logged_error(log, exchange)
            await exchange.refuse(
                EngineError(
                    "the server failed on this request; its log has the details under this "
                    "request's id"
                )
            )
        finally:
            exchange.log(self._desk.metrics.finish(exchange))

    def _admit(self, exchange: Exchange) -> None:
        """Raises HostNotAllowed, AuthenticationError or InvalidField."""
        self._guard.check(
            [value.decode("latin-1") for value in exchange.headers(b"host")],
            [value.decode("latin-1") for value in exchange.headers(b"origin")],
            site=exchange.header(b"sec-fetch-site") or "",
            safe=exchange.method in _SAFE_METHODS,
        )
        if exchange.path not in PUBLIC:
            exchange.caller = identify(
                exchange.headers(b"authorization"),
                exchange.headers(b"x-api-key"),
                self._desk.settings.api_key_hashes,
            )
