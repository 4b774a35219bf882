"""How far an import is: events for whoever shows them, and the meter that makes them. Pure."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Phase = Literal[
    "waiting",  # for another import of the same model
    "resolving",
    "downloading",
    "copying",
    "checking",
    "converting",
    "quantising",
    "measuring",
    "finishing",
]
EVERY_S = 0.1
"""Between two events of one phase."""
WINDOW_S = 10.0
"""Time over which the rate is taken."""
STALLED_S = 5.0
"""Without a byte, from which on the rate foretells nothing: it would fall, and the time left grow
without end."""
SILENT_S = 10.0
"""Without a byte, from which on that is told."""
SETTLED_S = 1.0
"""From which on a rate says something: the first bytes come from buffers."""


@dataclass(frozen=True)
class Progress:
    """One moment. `done` and `total` count bytes where a phase moves bytes, else steps."""

    phase: Phase
    done: int = 0
    total: int | None = None
    note: str = ""
    """What is at work just now, such as a file's name."""
    rate: float | None = None
    """Bytes (or steps) a second."""
    eta_s: float | None = None
    """Seconds to the end of this phase."""
    silent_s: float | None = None
    """For how long nothing has come from the network, where that is long; `note` says it too."""


Listener = Callable[[Progress], None]


class Meter:
    """Counts, from any thread, and tells a listener now and then."""

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener or (lambda _: None)
        self._lock = threading.Lock()
        self._phase: Phase = "resolving"
        self._done, self._total, self._note = 0, None, ""  # type: tuple[int, int | None, str]
        self._marks: deque[tuple[float, int]] = deque()
        self._told_at = float("-inf")
        self._host, self._came_at, self._asked_again = "", 0.0, False

    def begin(
        self,
        phase: Phase,
        total: int | None = None,
        *,
        done: int = 0,
        note: str = "",
        host: str = "",
    ) -> None:
        """A new phase; `done` of it were there before and do not count for the rate. `host`: who
        sends what is counted; when it falls silent, that is told."""
        with self._lock:
            self._host, self._came_at, self._asked_again = host, time.monotonic(), False
            self._phase, self._total, self._done, self._note = phase, total, done, note
            self._marks = deque([(time.monotonic(), done)])
            self._tell(at_once=True)

    def add(self, count: int, *, note: str | None = None) -> None:
        """`count` more are done; negative where something has to be done again, 0 where the
        listener is only to hear that the wait goes on, and may end it."""
        with self._lock:
            if count > 0:
                self._came_at, self._asked_again = time.monotonic(), False
            self._done += count
            self._note = self._note if note is None else note
            self._tell(at_once=self._done == self._total)

    def ask_again(self) -> None:
        """The host is asked for the same once more: told until something comes."""
        with self._lock:
            self._asked_again = bool(self._host)
            self._tell(at_once=True)

    def _tell(self, *, at_once: bool) -> None:
        now = time.monotonic()
        if not at_once and now - self._told_at < EVERY_S:
            return
        self._told_at = now
        self._marks.append((now, self._done))
        while len(self._marks) > 2 and now - self._marks[0][0] > WINDOW_S:
            self._marks.popleft()
        (then, before), rate, eta_s = self._marks[0], None, None
        if now - then >= SETTLED_S and self._done > before:
            rate = (self._done - before) / (now - then)
            eta_s = None if self._total is None else max(0, self._total - self._done) / rate
        waited_s = now - self._came_at if self._host else 0.0
        if waited_s >= STALLED_S:
            eta_s = None
        silent_s = waited_s if waited_s >= SILENT_S else None
        note = self._words(silent_s)
        self._listener(Progress(self._phase, self._done, self._total, note, rate, eta_s, silent_s))

    def _words(self, silent_s: float | None) -> str:
        if silent_s is not None:
            again = ", asked again" if self._asked_again else ""
            return f"{self._host} is silent since {silent_s:.0f} s{again}"
        return f"{self._host} is asked again" if self._asked_again else self._note
