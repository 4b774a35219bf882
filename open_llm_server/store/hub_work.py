"""Work that waits for a hub, in threads that may be left behind.

What reads from a silent hub cannot be interrupted. So the thread that wants the outcome looks up
now and then, and leaves when its listener has had enough. Knows nothing of hubs, HTTP or files.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

from .progress import Meter

T = TypeVar("T")
AT_ONCE = 4
"""Jobs that run at the same time."""
LOOK_EVERY_S = 0.5
"""Between two calls of the listener while nothing comes."""
LEAVING_S = 0.5
"""For which threads that were told to stop are waited for."""


class Late(Exception):
    """The work was not done in time."""


def each(jobs: Sequence[Callable[[], T]], meter: Meter, cancelled: threading.Event) -> Iterator[T]:
    """What the jobs return, as they are done, a few at a time. The first error ends all, and so
    does what the meter's listener raises: `cancelled` is set then."""
    waiting = deque(jobs)
    outcomes: SimpleQueue[tuple[T] | BaseException] = SimpleQueue()

    def work() -> None:
        while not cancelled.is_set():
            try:
                job = waiting.popleft()
            except IndexError:
                return
            outcomes.put(_outcome(job))

    # Daemons, so that one that waits for a silent hub keeps no process from ending.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(AT_ONCE, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            yield _result(_next(outcomes, meter))
    finally:
        cancelled.set()
        for thread in threads:
            thread.join(LEAVING_S / len(threads))


def heard(job: Callable[[], T], meter: Meter, cancelled: threading.Event | None = None) -> T:
    """What `job` returns. Meanwhile the meter's listener is called; what it raises ends the wait,
    and sets `cancelled`."""
    [result] = each([job], meter, cancelled or threading.Event())
    return result


def within(job: Callable[[], T], limit_s: float, late: Callable[[T], None]) -> T:
    """What `job` returns. Raises Late if that takes more than `limit_s`; what the job returns all
    the same is given to `late` then."""
    outcomes: SimpleQueue[tuple[T] | BaseException] = SimpleQueue()
    lock, left = threading.Lock(), threading.Event()

    def work() -> None:
        outcome = _outcome(job)
        with lock:
            outcomes.put(outcome)
            unwanted = left.is_set()
        if unwanted and isinstance(outcome, tuple):
            late(outcome[0])

    threading.Thread(target=work, daemon=True).start()
    try:
        return _result(outcomes.get(timeout=limit_s))
    except Empty:
        with lock:
            left.set()
            came = not outcomes.empty()
        if came:
            return _result(outcomes.get())
        raise Late from None


def _next(
    outcomes: SimpleQueue[tuple[T] | BaseException], meter: Meter
) -> tuple[T] | BaseException:
    while True:
        try:
            return outcomes.get(timeout=LOOK_EVERY_S)
        except Empty:
            meter.add(0)


def _outcome(job: Callable[[], T]) -> tuple[T] | BaseException:
    try:
        return (job(),)
    except BaseException as error:  # raised again where the outcome is read
        return error


def _result(outcome: tuple[T] | BaseException) -> T:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome[0]
