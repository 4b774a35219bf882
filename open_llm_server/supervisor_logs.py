"""What worker processes write, and what of it a person sees.

A worker writes each warning or error as lines with its level in front; all else (a library's
chatter, tracebacks of a crash) the supervisor keeps for the case that the process dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import select
import sys
from collections import deque
from collections.abc import Callable, Iterator

_LEVEL = re.compile(rb"(WARNING|ERROR|CRITICAL)[:|] ")
LAST_WORDS = "error: "
"""Begins the one line of a worker that leaves because it cannot do its work."""
PROGRESS = "\x1eprogress: "
"""Begins a line that says, as JSON, how far a worker's import is (`store.progress.Progress`)."""
MAX_LINE_BYTES = 8192
TAIL_LINES = 12
MAX_SAID_BYTES = 4000
"""A pipe that is writable at all takes 4096 bytes without waiting."""
_STDERR = 2

_speaker: Callable[[str], None] | None = None


class LevelLines(logging.Formatter):
    """`WARNING: text`, and `WARNING| text` for the lines that follow in one record."""

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = super().format(record).splitlines() or [""]
        level = record.levelname
        return "\n".join([f"{level}: {first}", *(f"{level}| {line}" for line in rest)])


def configure_worker_logs() -> None:
    """Warnings and errors of every library, to stderr, in the form above.

    Called after BentoML has set up its own logging in this process.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LevelLines("%(message)s"))
    handler.addFilter(_is_news)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("bentoml", "uvicorn", "uvicorn.error", "uvicorn.access", "circus"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
        logger.propagate = True


def _is_news(record: logging.LogRecord) -> bool:
    """Answers that were cut off at the drain limit: uvicorn says so in one line, and then again
    with a traceback for each."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


class OutputLines:
    """Joins what a worker wrote into lines; remembers the last ones that nobody saw."""

    def __init__(self) -> None:
        self._rest = b""
        self._unseen: deque[str] = deque(maxlen=TAIL_LINES)

    def push(self, chunk: bytes) -> Iterator[str]:
        """The complete lines of `chunk` that a person should see now."""
        *lines, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[:MAX_LINE_BYTES]
        for line in lines:
            yield from self._sort(line)

    def close(self) -> Iterator[str]:
        """The last line, if it had no end."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from self._sort(rest)

    def unseen(self) -> list[str]:
        return list(self._unseen)

    def _sort(self, raw: bytes) -> Iterator[str]:
        line = raw[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip()
        if _LEVEL.match(raw) or line.startswith(PROGRESS):
            yield line
        elif line:
            self._unseen.append(line)


def speak_through(speaker: Callable[[str], None] | None) -> None:
    """Lets `speaker` write what is said, while it holds the terminal."""
    global _speaker
    _speaker = speaker


def say(text: str) -> None:
    """Lines for the person who started the server.

    Nothing waits for them: what a closed, full or unread terminal does not take is dropped.
    """
    if _speaker:
        _speaker(text)
        return
    for line in text.splitlines():
        raw = line.encode("utf-8", "replace")[:MAX_SAID_BYTES] + b"\n"
        with contextlib.suppress(OSError, ValueError):
            _, writable, _ = select.select([], [_STDERR], [], 0)
            if writable:
                os.write(_STDERR, raw)
