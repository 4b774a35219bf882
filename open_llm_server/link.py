"""The HTTP stream to one runner process: BentoML's request form in, frames out.

Owns connections, time limits and what a broken one means. Knows frames and port errors; no
BentoML import, so that the supervisor can ask a runner how it is.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp

from .frames import BrokenFrame, End, Failure, Frame, FrameDecoder, Info
from .port import Busy, Lost

FIRST_FRAME_S = 10.0
"""A living runner answers each call with a frame at once, if only that it is queued."""
SILENCE_S = 30.0
"""No byte for so long in mid-stream: the runner, which says every 5 s that it lives, is stuck."""
BUSY_RETRY_S = 1.0
READ_BYTES = 1024 * 1024
IDLE_CONNECTION_S = 30.0
"""Far under the 1800 s after which BentoML's runner worker closes an idle connection."""

_SILENT = "it fell silent"
_BROKEN = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
LAST_FRAMES = (End, Failure, Info)


class RunnerLink:
    """Calls to the runner that listens at `address`: `file:///path/to.sock` or `tcp://host:port`.

    `method` is the runnable's stream method. Connections are made on first use, on the loop
    that uses them.
    """

    def __init__(self, address: str, *, name: str, method: str = "call") -> None:
        self._address = urlsplit(address)
        host = self._address.netloc or "runner"
        self._url = f"http://{host}/{method}"
        self.headers = {
            "Runner-Name": name,
            "Args-Number": "1",
            "Payload-Container": "DefaultContainer",
            "Payload-Meta": "{}",
            "Batch-Size": "1",
        }
        self._session: aiohttp.ClientSession | None = None

    async def stream(self, call: str) -> AsyncGenerator[Frame, None]:
        """Yields the answer's frames. Raises Busy or Lost, and nothing else.

        Closing the generator closes the connection, which cancels the work.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FIRST_FRAME_S
        response = await self._open(call, deadline)
        decoder = FrameDecoder()
        last: Frame | None = None
        first_frame_limit = loop.call_at(deadline, response.close)
        try:
            chunk = await response.content.readany()
            first_frame_limit.cancel()
            while chunk:
                for last in decoder.push(chunk):
                    yield last
                chunk = await response.content.readany()
        except (*_BROKEN, BrokenFrame) as broken:
            too_late = last is None and loop.time() >= deadline
            why = _SILENT if too_late else _words(broken)
            raise Lost(started=last is not None, why=why) from broken
        finally:
            first_frame_limit.cancel()
            response.close()
        if not isinstance(last, LAST_FRAMES):
            raise Lost(started=last is not None, why="its answer broke off")

    def body(self, call: str) -> bytes:
        """BentoML's runner worker reads a single argument in this form only."""
        return pickle.dumps(call)

    async def close(self) -> None:
        """Closes all connections; a later call opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _open(self, call: str, deadline: float) -> aiohttp.ClientResponse:
        """The response, as soon as its headers are here: before the model has done anything."""
        try:
            response = await self._post(call, deadline)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # An idle connection whose runner has been replaced since: a new one may do.
            try:
                response = await self._post(call, deadline)
            except _BROKEN as broken:
                raise Lost(started=False, why=_words(broken)) from broken
        except _BROKEN as broken:
            raise Lost(started=False, why=_words(broken)) from broken
        if response.status == 200:
            return response
        status = response.status
        response.close()
        if status in (429, 503):
            raise Busy(BUSY_RETRY_S)
        raise Lost(started=False, why=f"its process answered with HTTP status {status}")

    async def _post(self, call: str, deadline: float) -> aiohttp.ClientResponse:
        session = self._session or self._connect()
        post = session.post(self._url, data=self.body(call), headers=self.headers)
        asked = asyncio.ensure_future(post)
        left_s = max(0.0, deadline - asyncio.get_running_loop().time())
        # Not wait_for: until Python 3.12 it loses a cancellation that comes with the answer.
        try:
            await asyncio.wait({asked}, timeout=left_s)
        except asyncio.CancelledError:
            _drop(asked)
            raise
        if asked.done():
            return asked.result()
        _drop(asked)
        raise asyncio.TimeoutError

    def _connect(self) -> aiohttp.ClientSession:
        connector: aiohttp.BaseConnector
        options: dict[str, Any] = {"limit": 0, "keepalive_timeout": IDLE_CONNECTION_S}
        if self._address.scheme == "file":
            connector = aiohttp.UnixConnector(path=unquote(self._address.path), **options)
        else:
            connector = aiohttp.TCPConnector(ssl=False, **options)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=SILENCE_S),
            read_bufsize=READ_BYTES,
            auto_decompress=False,
        )
        return self._session


def _drop(asked: asyncio.Future[aiohttp.ClientResponse]) -> None:
    """Nobody waits for it any more, also if its answer is here by now."""

    def close(done: asyncio.Future[aiohttp.ClientResponse]) -> None:
        if not done.cancelled() and done.exception() is None:
            done.result().close()

    asked.cancel()
    asked.add_done_callback(close)


def _words(broken: BaseException) -> str:
    match broken:
        case asyncio.TimeoutError():
            return _SILENT
        case aiohttp.ClientConnectorError():
            return "it could not be reached"
        case BrokenFrame():
            return str(broken)
        case _:
            return "its connection broke"
