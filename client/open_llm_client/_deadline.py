"""When a call must be over, and what cuts it off then. Knows no protocol.

Socket timeouts count from the last byte, so a server that drips bytes would outlive them all. For
threads a watchdog cuts the connection from outside; for tasks the event loop cancels the wait.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from .errors import TimedOut

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
LONGEST_S = 7 * 86_400.0
"""Longest `timeout`, in seconds."""


class Deadline:
    """`timeout` seconds from now."""

    __slots__ = ("at", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.at = time.monotonic() + timeout

    def left(self) -> float:
        """Seconds, at least a millisecond: libraries take 0 for no limit at all."""
        return max(self.at - time.monotonic(), 0.001)

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.at

    def error(self, url: str) -> TimedOut:
        return TimedOut(
            f"{url} did not complete its answer within {self.timeout:g} s; give a longer timeout, "
            "or ask for less with a smaller max_tokens"
        )


def checked_timeout(timeout: float) -> float:
    """Raises TypeError or ValueError for what is no number of seconds that can be waited."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout: want seconds, such as 30.0, not {type(timeout).__name__}")
    if not 0 < timeout <= LONGEST_S:
        raise ValueError(f"timeout: want seconds above 0, and at most {LONGEST_S:g}")
    return float(timeout)


class Watchdog:
    """Calls what it was given when its time has come, unless it was called off before.

    One thread, which lives while there is something to watch.
    """

    def __init__(self) -> None:
        # Reentrant: the garbage collector may close a stream, and call off its watch, in here.
        self._news = threading.Condition(threading.RLock())
        self._watched: dict[int, tuple[float, Callable[[], None]]] = {}
        self._last = 0
        self._next_at: float | None = None
        """When the thread looks again; `None`: there is no thread."""

    def watch(self, deadline: Deadline, cut: Callable[[], None]) -> int:
        """`cut` must be quick, and safe to call from another thread."""
        with self._news:
            self._last += 1
            self._watched[self._last] = (deadline.at, cut)
            if self._next_at is None:
                self._next_at = deadline.at
                threading.Thread(target=self._run, name="open-llm-client", daemon=True).start()
            elif deadline.at < self._next_at:
                self._next_at = deadline.at
                self._news.notify()
            return self._last

    def call_off(self, watch: int) -> None:
        """Once this returns, `cut` has been called or never will be."""
        with self._news:
            self._watched.pop(watch, None)

    def _run(self) -> None:
        with self._news:
            while self._watched:
                now = time.monotonic()
                for watch, (at, cut) in [*self._watched.items()]:
                    if at <= now and watch in self._watched:
                        del self._watched[watch]
                        cut()
                self._next_at = min((at for at, _ in [*self._watched.values()]), default=now)
                if self._next_at > now:
                    self._news.wait(self._next_at - now)
            self._next_at = None


watchdog = Watchdog()


def _after_fork() -> None:
    global watchdog
    watchdog = Watchdog()  # the parent's has no thread here, and may have been locked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


async def in_time(work: Awaitable[T], deadline: Deadline, url: str) -> T:
    """Awaits `work` in this task. Raises TimedOut once the deadline has passed."""
    import asyncio

    task: asyncio.Task[object] | None = asyncio.current_task()
    if task is None:
        raise RuntimeError("async_ calls need asyncio; run them with asyncio.run(...)")
    late = False
    before = task.cancelling() if hasattr(task, "cancelling") else 0

    def cut() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(deadline.left(), cut)
    try:
        return await work
    except asyncio.CancelledError:
        # Somebody else may have cancelled the task too; that must not be swallowed.
        if not late or (hasattr(task, "uncancel") and task.uncancel() > before):
            raise
        raise deadline.error(url) from None
    finally:
        timer.cancel()
