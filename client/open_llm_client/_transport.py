"""What the client asks of a transport, and the state of one call. Knows no protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from typing import Protocol

from ._answers import Answer, Delta
from ._deadline import Deadline
from ._requests import Request

MAX_ANSWER = 64 * 1024**2
"""Bytes of one whole answer, or of one event of a stream; characters of a stream's text."""
MAX_CHOICES = 1024
"""Most choices of one stream; servers give fewer."""
CONNECT_S = 10.0
"""Longest wait for a connection, within the call's own `timeout`."""

Items = Generator[Delta | Answer | None, None, None]
"""Of a stream: `None` once the server has accepted it, its deltas, the whole answer."""
AsyncItems = AsyncGenerator[Delta | Answer | None, None]


class Call:
    """One call, with all its tries."""

    def __init__(self, request: Request, *, timeout: float, request_id: str | None) -> None:
        self.request = request
        self.deadline = Deadline(timeout)
        self.request_id = request_id
        self.cut: Callable[[], object] | None = None
        """Breaks off what another thread is waiting for; set while there is something to."""


class Transport(Protocol):
    """One try each; every failure is an OpenLLMError.

    Safe from many threads, and from several event loops one after another.
    """

    def answer(self, call: Call) -> Answer: ...

    def stream(self, call: Call) -> Items: ...

    async def async_answer(self, call: Call) -> Answer: ...

    def async_stream(self, call: Call) -> AsyncItems: ...

    def close(self) -> None: ...

    async def aclose(self) -> None: ...
