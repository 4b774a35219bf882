"""HTTP for tasks of event loops: connections, and bytes over them. Knows no answer's meaning."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ._deadline import in_time
from ._http_setup import Setup
from ._loops import PerLoop
from ._transport import AsyncItems, Call
from .errors import TimedOut

if TYPE_CHECKING:
    import httpx

MAX_IDLE = 64
"""Open connections of a loop that are kept for later calls."""


class Lane:
    """A connection for one call at a time."""

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        self._transport = transport
        self._stream: Any = None

    async def send(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme == "https":
            request.extensions["trace"] = self._trace
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._transport.aclose()
        if self._stream is not None:
            # Who is cancelled within a TLS handshake leaves this open.
            await self._stream.aclose()

    async def _trace(self, name: str, info: Mapping[str, Any]) -> None:
        """Called by the library as it connects."""
        if name.endswith(".connect_tcp.complete"):
            self._stream = info["return_value"]


class Idle:
    """Lanes of one event loop that wait for calls."""

    def __init__(self) -> None:
        self._lanes: list[Lane] = []
        self._closed = False

    def take(self) -> Lane | None:
        return self._lanes.pop() if self._lanes else None

    async def give_back(self, lane: Lane) -> None:
        if self._closed or len(self._lanes) >= MAX_IDLE:
            await lane.aclose()
        else:
            self._lanes.append(lane)

    async def aclose(self) -> None:
        self._closed = True
        while self._lanes:
            await self._lanes.pop().aclose()


class Tasks:
    """Calls by tasks, and the idle connections of each event loop."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._idle = PerLoop(Idle, Idle.aclose)

    async def items(self, call: Call) -> AsyncItems:
        """One try: of a stream `None` once it is accepted and its deltas; then the answer."""
        import httpx

        reading = self._setup.reading(call)
        request = self._setup.request(call)
        idle = await self._idle.get()
        lane = idle.take() or Lane(self._setup.async_transport())
        url = self._setup.url(call.request.kind)
        whole = False
        try:
            response = await in_time(lane.send(request), call.deadline, url)
            reading.head(response.status_code, response.headers.get)
            if reading.opened:
                yield None
            async with aclosing(raw_chunks(response)) as chunks:
                while chunk := await in_time(next_of(chunks), call.deadline, url):
                    for delta in reading.feed(chunk):
                        yield delta
            await response.aclose()
            whole = True
        except (httpx.HTTPError, OSError, TimedOut) as error:
            if not reading.done:
                raise self._setup.explained(error, call, reading) from None
        finally:
            if whole:
                await idle.give_back(lane)
            else:
                await lane.aclose()
        yield reading.end()

    async def aclose(self) -> None:
        await self._idle.aclose()


async def raw_chunks(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body as it came, nothing unpacked."""
    stream = response.stream
    assert isinstance(stream, AsyncIterable)
    async for chunk in stream:
        if chunk:
            yield chunk


async def next_of(chunks: AsyncIterable[bytes]) -> bytes:
    """Empty at the end."""
    async for chunk in chunks:
        return chunk
    return b""
