"""A server on loopback that says exactly what a test tells it to, and ways to ask it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from open_llm_client import Client, create

WAYS = ("threads", "tasks")
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cached_tokens": 0}
TAIL = {"configuration": {"temperature": 0.5}, "usage": USAGE, "model": "one", "id": "abc"}
CHAT: dict[str, Any] = {"message": "Hello you", "finish_reason": "stop", **TAIL}
COMPLETE: dict[str, Any] = {"choices": ["a", "b"], "finish_reasons": ["stop", "length"], **TAIL}
EMBED: dict[str, Any] = {
    "embeddings": [[0.5, 1], [0.25, -1.5]],
    "model": "one",
    "dimension": 2,
    "pooling": "mean",
    "usage": USAGE,
    "id": "abc",
}
MODEL: dict[str, Any] = {
    "id": "one",
    "family": "fake",
    "status": "ready",
    "aliases": ["uno"],
    "context_length": 512,
    "capabilities": ["chat"],
    "embedding_dimension": None,
}
MODELS: dict[str, Any] = {"object": "list", "data": [MODEL]}
HEALTH: dict[str, Any] = {"status": "ready", "models": {"one": "ready"}}
ANSWERS = {"chat": CHAT, "complete": COMPLETE, "embed": EMBED, "models": MODELS, "health": HEALTH}
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "chat": ("Hello",),
    "complete": ("Hello",),
    "embed": ("Hello",),
    "models": (),
    "health": (),
}
STREAM = [{"delta": "Hello"}, {"delta": " you"}, CHAT]


def http(body: Any, *, status: int = 200, kind: str = "application/json", **headers: Any) -> bytes:
    """A whole answer; `body` is bytes, or JSON. Names of headers have _ for -."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Said", f"content-type: {kind}"]
    named = {"content_length": len(data), **headers}
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def events(*values: Any, done: bool = True) -> bytes:
    """Server-sent events of JSON values."""
    data = b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)
    return data + (b"data: [DONE]\n\n" if done else b"")


def chunked(*chunks: bytes, end: bool = True, kind: str = "text/event-stream") -> bytes:
    """An answer in pieces."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head.encode() + body + (b"0\r\n\r\n" if end else b"")


class Peer:
    """One connection, from the server's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self.sent = 0

    def request(self) -> bytes | None:
        """One whole request; `None` once the client has hung up."""
        while True:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            length = 0
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            if end and len(rest) >= length:
                self._buffer = rest[length:]
                return head + end + rest[:length]
            more = self._sock.recv(65536)
            if not more:
                return None
            self._buffer += more

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)
        self.sent += len(data)

    def reset(self) -> None:
        """Ends the connection without a goodbye."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def wait_for_end(self) -> None:
        """Until the client hangs up."""
        while self._sock.recv(65536):
            pass


class Hostile:
    """Serves each connection with `behave`, in a thread, until the end of its `with` block."""

    def __init__(self, behave: Callable[[Peer], None]) -> None:
        self._behave = behave
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.peers: list[Peer] = []
        self.begun = threading.Semaphore(0)
        """Counts connections."""
        self.ended = threading.Semaphore(0)
        """Counts those that are over."""

    def __enter__(self) -> Hostile:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for sock in [self._listening, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in [self._listening, *self._open]:
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open.append(sock)
                self.peers.append(Peer(sock))
                thread = threading.Thread(target=self._serve, args=(sock, self.peers[-1]))
                self._threads.append(thread)
                thread.start()
                self.begun.release()

    def _serve(self, sock: socket.socket, peer: Peer) -> None:
        with contextlib.suppress(OSError):
            self._behave(peer)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        self.ended.release()


def saying(*answers: bytes) -> Callable[[Peer], None]:
    """Answers one request after another, whatever they are; then hangs up."""

    def behave(peer: Peer) -> None:
        for answer in answers:
            if peer.request() is None:
                return
            peer.send(answer)

    return behave


def always(answer: bytes) -> Callable[[Peer], None]:
    """The same answer to every request."""

    def behave(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(answer)

    return behave


@contextlib.contextmanager
def talking_to(behave: Callable[[Peer], None], **options: Any) -> Iterator[tuple[Hostile, Client]]:
    """A hostile server and a client of it that does not try again."""
    with Hostile(behave) as server, create(server.url, **{"retries": 0, **options}) as client:
        yield server, client


def ask(way: str, client: Client, call: str, *args: Any, **options: Any) -> Any:
    """A call, by a thread or by a task."""
    given = args or ARGUMENTS[call]
    if way == "threads":
        return getattr(client, call)(*given, **options)
    return asyncio.run(getattr(client, f"async_{call}")(*given, **options))


def streamed(way: str, client: Client, call: str, *args: Any, **options: Any) -> tuple[Any, Any]:
    """A stream, read to its end: its deltas, and what is known then."""
    given = args or ARGUMENTS[call]
    if way == "threads":
        stream = getattr(client, call)(*given, stream=True, **options)
        return [*stream], stream
    return asyncio.run(_streamed(client, call, given, options))


async def _streamed(client: Client, call: str, args: Any, options: Any) -> tuple[Any, Any]:
    stream = await getattr(client, f"async_{call}")(*args, stream=True, **options)
    return [delta async for delta in stream], stream
