"""HTTP for threads: connections, and bytes over them. Knows no answer's meaning."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import _deadline
from ._http_setup import Setup
from ._transport import Call, Items

if TYPE_CHECKING:
    import httpx

MAX_IDLE = 64
"""Open connections that are kept for later calls."""


class Lane:
    """A connection for one call at a time. Another thread may cut it."""

    def __init__(self, transport: httpx.HTTPTransport) -> None:
        self._transport = transport
        self._socket: socket.socket | None = None
        # Reentrant: the garbage collector may close a stream, and end its call, in here.
        self._lock = threading.RLock()
        self._caller: object = None
        self._is_cut = False

    def begin(self) -> Callable[[], None]:
        """What cuts the call that begins now, and no later one on this connection."""
        caller = self._caller = object()

        def cut() -> None:
            with self._lock:
                if self._caller is caller:
                    self._cut()

        return cut

    def end(self) -> bool:
        """Ends the call; whether its connection can take another one."""
        with self._lock:
            self._caller = None
            return not self._is_cut

    def send(self, request: httpx.Request) -> httpx.Response:
        request.extensions["trace"] = self._trace
        return self._transport.handle_request(request)

    def _cut(self) -> None:
        """Ends what waits for bytes, at once. The lane is of no use after that."""
        self._is_cut = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Of the plain socket: TLS would say goodbye first, and may wait for that.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        self._transport.close()

    def _trace(self, name: str, info: Mapping[str, Any]) -> None:
        """Called by the library as it connects; TLS puts a new socket object over the first."""
        if name.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
            if self._is_cut:
                self._cut()


class Threads:
    """Idle lanes of this process. The last one used is taken first, so that others grow old."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._idle: list[Lane] = []
        self._owner = os.getpid()
        self._closed = False

    def items(self, call: Call) -> Items:
        """One try: of a stream `None` once it is accepted and its deltas; then the answer."""
        import httpx

        reading = self._setup.reading(call)
        request = self._setup.request(call)
        lane = self._take()
        call.cut = lane.begin()
        watchdog = _deadline.watchdog
        watch = watchdog.watch(call.deadline, call.cut)
        whole = False
        try:
            response = lane.send(request)
            reading.head(response.status_code, response.headers.get)
            if reading.opened:
                yield None
            for chunk in raw_chunks(response):
                yield from reading.feed(chunk)
            response.close()
            whole = True
        except (httpx.HTTPError, OSError) as error:
            if not reading.done:
                raise self._setup.explained(error, call, reading) from None
        finally:
            call.cut = None
            watchdog.call_off(watch)
            if lane.end() and whole:
                self._give_back(lane)
            else:
                lane.close()
        yield reading.end()

    def close(self) -> None:
        self._closed = True
        self._drop()

    def __del__(self) -> None:
        # A client that nobody closed leaves no open sockets behind either.
        self._drop()

    def _take(self) -> Lane:
        if self._owner != os.getpid():
            self._drop()  # of the parent process, which goes on using them
            self._owner = os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return Lane(self._setup.transport())

    def _give_back(self, lane: Lane) -> None:
        if self._closed or len(self._idle) >= MAX_IDLE:
            lane.close()
        else:
            self._idle.append(lane)

    def _drop(self) -> None:
        while self._idle:
            self._idle.pop().close()


def raw_chunks(response: httpx.Response) -> Iterable[bytes]:
    """The body as it came, nothing unpacked."""
    stream = response.stream
    assert isinstance(stream, Iterable)
    return stream
