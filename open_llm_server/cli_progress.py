"""Shows how far imports are: bars on a terminal, now and then a line elsewhere.

Owns when something is said, and the lines; `cli_bars` draws. Knows nothing of what makes progress.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TextIO

from .cli_figures import BYTES, Figures, duration, printable
from .cli_stream import Unwaiting

if TYPE_CHECKING:
    from .store.progress import Listener, Progress

LINE_EVERY_S = 5.0
"""Between two lines on one phase, where nobody watches a bar."""


@contextlib.contextmanager
def shown(*, stream: TextIO | None = None) -> Iterator[Listener]:
    """What shows the progress of one import on `stream` (default: standard error)."""
    bars = Bars(stream)
    try:
        yield partial(bars.update, "")
    finally:
        bars.close()


class Bars:
    """The progress of several models at once, from any thread. No call waits for the terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._out = Unwaiting(sys.stderr if stream is None else stream)
        self._lock = threading.Lock()
        self._display: _Display | None = None

    def update(self, label: str, progress: Progress) -> None:
        """`label` says whose progress it is; an empty one is not shown."""
        with self._lock:
            if self._display is None:
                self._display = _display(self._out)
            self._display.update(printable(label), progress)

    def end(self, label: str) -> None:
        """Takes the bar of `label` away, whether it is full or not."""
        with self._lock:
            if self._display:
                self._display.end(printable(label))

    def say(self, text: str) -> None:
        """Writes lines to the same stream, above the bars."""
        with self._lock:
            for line in text.splitlines():
                if self._display:
                    self._display.say(line)
                else:
                    self._out.write(f"{line}\n")

    def close(self) -> None:
        """Takes all bars away. Another update brings one again."""
        with self._lock:
            if self._display:
                self._display.close()
                self._display = None


class _Display(Protocol):
    def update(self, label: str, progress: Progress) -> None: ...
    def end(self, label: str) -> None: ...
    def say(self, line: str) -> None: ...
    def close(self) -> None: ...


def _display(out: Unwaiting) -> _Display:
    if out.isatty():
        from .cli_bars import Drawn

        drawn = Drawn(out)
        if drawn.possible:
            return drawn
    return _Lines(out)


@dataclass
class _Told:
    """A phase, and when it was last spoken of."""

    phase: tuple[str, int | None]
    began_at: float
    said_at: float
    done: bool = False


class _Lines:
    """A line when a phase begins, now and then, and when all of it is done."""

    def __init__(self, out: Unwaiting) -> None:
        self._out = out
        self._told: dict[str, _Told] = {}

    def update(self, label: str, progress: Progress) -> None:
        now, phase = time.monotonic(), (progress.phase, progress.total)
        done = progress.total is not None and progress.done >= progress.total
        told = self._told.get(label)
        if told is None or told.phase != phase or (told.done and not done):
            self._told[label] = _Told(phase, now, now, done)
            self._say(label, _begin(progress))
        elif done and not told.done:
            told.done = True
            self._say(label, _end(progress, now - told.began_at))
        elif not done and now - told.said_at >= LINE_EVERY_S:
            told.said_at = now
            self._say(label, _middle(progress, now - told.began_at))

    def end(self, label: str) -> None:
        self._told.pop(label, None)

    def close(self) -> None:
        self._told.clear()

    def say(self, line: str) -> None:
        self._out.write(f"{line}\n")

    def _say(self, label: str, text: str) -> None:
        self.say(f"{label}: {text}" if label else text)


def _begin(progress: Progress) -> str:
    figures = Figures.of(progress)
    words = f"{progress.phase} {figures.total if progress.phase in BYTES else ''}".rstrip()
    words += f" ({printable(progress.note)})" if progress.note else ""
    already = bool(progress.done) and progress.total is not None
    return words + (f", {figures.share} of it is here already" if already else "")


def _middle(progress: Progress, seconds: float) -> str:
    figures = Figures.of(progress)
    if progress.total is None:
        parts = [f"{progress.phase} {figures.amount}".rstrip(), f"{duration(seconds)} so far"]
    elif progress.phase in BYTES:
        silence = printable(progress.note) if progress.silent_s else ""
        parts = [f"{progress.phase} {figures.share} of {figures.total}", figures.rate, figures.left]
        parts.append(silence)
    else:
        parts = [f"{progress.phase} {figures.amount or figures.share}", figures.left]
    return ", ".join(filter(None, parts))


def _end(progress: Progress, seconds: float) -> str:
    total = f" {Figures.of(progress).total}" if progress.phase in BYTES else ""
    return f"{progress.phase}{total} is done" + (f", {duration(seconds)}" if seconds >= 1 else "")
