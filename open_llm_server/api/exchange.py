"""One HTTP exchange: its request, what is known about it so far, and the way to answer.

Made once at the edge and handed to the route. Knows ASGI, but no route and no wire format.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from ..errors import OpenLLMError
from .json_text import dump
from .visit import Visit, request_id

Header = tuple[bytes, bytes]
JSON_TYPE: Header = (b"content-type", b"application/json")


class ClientGone(Exception):
    """Whoever asked does not read any more; there is nobody to answer."""


class Exchange(Visit):
    """A visit over HTTP."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(method=scope["method"], path=scope["path"])
        self.scope = scope
        self.receive = receive
        self._send = send
        self.id = request_id(self.header(b"x-request-id"))
        self.status = 0
        self.extra_headers: list[Header] = []
        self.write_timeout_s: float | None = None

    @property
    def outcome(self) -> str:
        return str(self.status or 499)

    @property
    def started(self) -> bool:
        """Whether a status has been sent."""
        return self.status != 0

    def header(self, name: bytes) -> str | None:
        """The first value of a header; `name` in lower case."""
        for key, value in self.scope["headers"]:
            if key == name:
                text: str = value.decode("latin-1")
                return text
        return None

    def headers(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.scope["headers"] if key == name]

    async def send(self, message: Message) -> None:
        """ASGI's send, with the headers that every answer carries and no body after HEAD."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = [(b"x-request-id", self.id.encode()), *self.extra_headers]
            message = {**message, "headers": [*message.get("headers", ()), *own]}
        elif message["type"] == "http.response.body" and self.method == "HEAD":
            message = {**message, "body": b""}
        if self.write_timeout_s is None:
            await self._send(message)
        else:
            await in_time(self._send(message), self.write_timeout_s, ClientGone())

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers]})

    async def write(self, body: bytes, *, more: bool) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def respond(self, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
        """A whole answer; JSON unless `headers` say otherwise."""
        sent = [*headers]
        if not any(name == b"content-type" for name, _ in sent):
            sent.append(JSON_TYPE)
        sent.append((b"content-length", str(len(body)).encode()))
        await self.start(status, sent)
        await self.write(body, more=False)

    async def refuse(self, error: OpenLLMError, headers: Iterable[Header] = ()) -> None:
        """Answers with an error in the one shape that all routes share."""
        self.reason = error.code
        body = dump({"error": error.body() | {"request_id": self.id}}) + b"\n"
        await self.respond(error.status, body, [*headers, *refusal_headers(error)])


def logged_error(log: logging.Logger, exchange: Exchange) -> None:
    """Writes the exception being handled to the log; the caller learns only the request's id."""
    log.exception("request %s failed in an unexpected way", exchange.id)


def refusal_headers(error: OpenLLMError) -> list[Header]:
    # OpenAI's packages obey this; without it they would send every 5xx again, twice.
    headers: list[Header] = [(b"x-should-retry", b"true" if error.may_repeat else b"false")]
    if error.retry_after is not None:
        wait_s = max(error.retry_after, 0.0)
        # Whole seconds, rounded up: too early a try would be refused again.
        headers.append((b"retry-after", str(max(1, int(-(-wait_s // 1)))).encode()))
        headers.append((b"retry-after-ms", str(max(1, round(wait_s * 1000))).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


async def in_time(work: Awaitable[Any], limit_s: float, late: Exception) -> Any:
    """Awaits `work` without a task of its own; raises `late` when it takes longer than allowed.

    asyncio.timeout would do the same, from Python 3.11 on.
    """
    task = asyncio.current_task()
    assert task is not None
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(limit_s, expire)
    try:
        return await work
    except asyncio.CancelledError:
        if not expired:
            raise
        if hasattr(task, "uncancel"):
            task.uncancel()
        raise late from None
    finally:
        timer.cancel()
