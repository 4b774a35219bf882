"""Measures how fast a model's queue drains, so that waiting times are honest. Pure."""

from __future__ import annotations

from collections import deque

WINDOW = 64
"""Completions looked back on: recent enough to follow the load, many enough to be steady."""
FIRST_GUESS_S = 1.0


class DrainMeter:
    """Rate at which requests leave, over the time in which there was work at all."""

    def __init__(self) -> None:
        self._done: deque[float] = deque(maxlen=WINDOW)
        self._busy_s = 0.0
        self._busy_since: float | None = None

    def busy(self, now: float) -> None:
        """There is work from `now` on (seconds of a monotonic clock)."""
        if self._busy_since is None:
            self._busy_since = now

    def idle(self, now: float) -> None:
        """There is no work from `now` on: this time does not count."""
        self._busy_s = self._busy_time(now)
        self._busy_since = None

    def left(self, now: float) -> None:
        """One request has left."""
        self._done.append(self._busy_time(now))

    def seconds_for(self, requests: int, now: float) -> float | None:
        """How long until so many more requests have left; `None` before the first has."""
        if not self._done:
            return None
        # Measured from the first completion remembered, or from the start of work.
        full = len(self._done) == WINDOW
        first = self._done[0] if full else 0.0
        gap = max((self._done[-1] - first) / (len(self._done) - full), 1e-3)
        since = self._busy_time(now) - self._done[-1]
        # Part of the next gap has passed already; one that takes longer is the better measure.
        return requests * gap - since if since < gap else requests * since

    def _busy_time(self, now: float) -> float:
        running = now - self._busy_since if self._busy_since is not None else 0.0
        return self._busy_s + running
