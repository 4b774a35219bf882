"""A text stream that never makes its writer wait.

What a closed, full or stopped terminal or pipe does not take now is dropped: a server or an import
has better things to do.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
from collections.abc import Iterator
from typing import TextIO

_MOST_BYTES = 4096  # that a pipe which is writable takes without waiting


class Unwaiting:
    """A text stream whose reader nobody waits for."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self.stream is not None and not self.stream.closed and self.stream.isatty()

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            if self.stream:
                self._offer(self.stream, text)
        return len(text)

    def flush(self) -> None:
        """Nothing is ever kept back."""

    def _offer(self, stream: TextIO, text: str) -> None:
        try:
            descriptor = stream.fileno()
        except io.UnsupportedOperation:  # it is kept in memory
            stream.write(text)
            return
        with _without_waiting(descriptor) as open_descriptor:
            raw = text.encode(self.encoding, "backslashreplace")
            if len(raw) > _MOST_BYTES and not stream.isatty():
                raw = raw[: _MOST_BYTES - 1] + b"\n"
            if select.select([], [open_descriptor], [], 0)[1]:
                os.write(open_descriptor, raw)


@contextlib.contextmanager
def _without_waiting(descriptor: int) -> Iterator[int]:
    """The same terminal, opened anew without waiting: a mode that must not be set for all who
    write to it. Anything else as it is."""
    try:
        again = os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        yield descriptor
        return
    try:
        yield again
    finally:
        os.close(again)
