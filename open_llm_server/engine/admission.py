"""How many sequences are here, and what to tell a request that finds no place. Thread-safe."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from ..errors import InvalidField, OpenLLMError, QueueFull
from .meter import DrainMeter

FIRST_GUESS_S = 1.0
"""Retry-After before anything was measured, and its least value."""


class Admission:
    """`capacity` places, for running and waiting sequences together."""

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        self.capacity = capacity
        self.live = 0
        self.refused = 0
        self._clock = clock
        self._meter = DrainMeter()
        self._lock = threading.Lock()

    def enter(self, places: int) -> float:
        """Takes `places` and returns the time on the clock, or raises QueueFull.

        A request that can never fit is an InvalidField: waiting would not help it.
        """
        with self._lock:
            now = self._clock()
            excess = self.live + places - self.capacity
            if excess > 0:
                self.refused += 1
                raise self._refusal(excess, places, now)
            self.live += places
            self._meter.busy(now)
            return now

    def leave(self, places: int, *, done: bool) -> None:
        """Gives `places` back; `done` counts for how fast the queue drains."""
        with self._lock:
            now = self._clock()
            self.live -= places
            if done:
                self._meter.left(now)
            if self.live == 0:
                self._meter.idle(now)

    def seconds_for(self, requests: int) -> float | None:
        """How long until so many sequences have left; `None` before any was measured."""
        with self._lock:
            return self._meter.seconds_for(requests, self._clock())

    def check(self, places: int) -> None:
        """Raises what `enter` would raise now, before any work is put into a request."""
        with self._lock:
            excess = self.live + places - self.capacity
            if excess > 0:
                self.refused += 1
                raise self._refusal(excess, places, self._clock())

    def _refusal(self, excess: int, places: int, now: float) -> OpenLLMError:
        if places > self.capacity:
            return InvalidField(
                f"the request asks for {places} sequences at once and this model takes "
                f"{self.capacity}; ask for fewer (n, prompts), or start with a larger --queue-size",
                param="n",
            )
        wait = max(self._meter.seconds_for(excess, now) or FIRST_GUESS_S, FIRST_GUESS_S)
        return QueueFull(
            f"the model's queue is full ({self.live} of {self.capacity} places taken); "
            f"try again in {math.ceil(wait)} s, or start with a larger --queue-size",
            retry_after=wait,
        )
