"""Calls an ASGI app by hand: bodies in chosen pieces, clients that leave, answers as they come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ports import EchoPort

from open_llm_server.api.app import ApiSettings, ServedModel, create_app
from open_llm_server.port import ModelPort

App = Any
Headers = Sequence[tuple[str, str]]
HOST = ("host", "127.0.0.1:5000")


def app_of(*ports: ModelPort, name: str = "echo", **settings: Any) -> App:
    """An app that serves one model, from an EchoPort unless told otherwise."""
    served = ServedModel(name, ("alias/of-it",), ports or (EchoPort(),), {"family": "echo"})
    return create_app([served], ApiSettings(**settings))


@dataclass
class Reply:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        return found

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def events(self) -> list[Any]:
        """The JSON of each `data:` line; "[DONE]" as it is."""
        found = [line[6:] for line in self.text.splitlines() if line.startswith("data: ")]
        return [one if one == "[DONE]" else json.loads(one) for one in found]


class Client:
    """One request, driven step by step; leaving the block disconnects."""

    def __init__(
        self,
        app: App,
        method: str,
        path: str,
        *,
        pieces: Iterable[bytes] = (b"",),
        headers: Headers = (),
        host: tuple[str, str] | None = HOST,
    ) -> None:
        sent = [*([host] if host else []), *headers]
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in sent],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 5000),
        }
        self._app = app
        self._pieces = list(pieces)
        self._gone = asyncio.Event()
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.task: asyncio.Task[None]

    async def __aenter__(self) -> Client:
        self.task = asyncio.create_task(self._app(self._scope, self._receive, self._send))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()
        if kind is not None:
            self.task.cancel()
        await asyncio.wait({self.task}, timeout=10)
        if kind is None:
            self.task.result()

    def leave(self) -> None:
        self._gone.set()

    async def start(self) -> Reply:
        """Status and headers, as soon as they are here."""
        message = await self._next()
        assert message["type"] == "http.response.start"
        headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        return Reply(message["status"], headers, b"")

    async def piece(self) -> bytes:
        message = await self._next()
        body: bytes = message["body"]
        return body

    async def whole(self) -> Reply:
        reply = await self.start()
        more = True
        while more:
            message = await self._next()
            reply.body += message.get("body", b"")
            more = message.get("more_body", False)
        return reply

    async def _next(self) -> dict[str, Any]:
        """The next message; the app's own exception if it ends without one."""
        getting = asyncio.create_task(self.messages.get())
        await asyncio.wait({getting, self.task}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        if not getting.done() and not self.messages.empty():
            await asyncio.wait({getting})
        if not getting.done():
            getting.cancel()
            if self.task.done():
                self.task.result()
            raise AssertionError("the app sent no further message")
        return getting.result()

    async def _receive(self) -> dict[str, Any]:
        if self._pieces:
            body = self._pieces.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self._pieces)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await self.messages.put(message)


async def call(
    app: App,
    method: str,
    path: str,
    body: Any = b"",
    headers: Headers = (),
    host: tuple[str, str] | None = HOST,
) -> Reply:
    """One whole exchange; `body` is bytes, or JSON values."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with Client(app, method, path, pieces=[raw], headers=headers, host=host) as client:
        return await client.whole()


async def post(app: App, path: str, body: Any, headers: Headers = ()) -> Reply:
    return await call(app, "POST", path, body, headers)


async def get(app: App, path: str, headers: Headers = ()) -> Reply:
    return await call(app, "GET", path, b"", headers)
