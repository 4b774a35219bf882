"""Notices an engine call that does not return. Looks from an event loop; touches no engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

LOOK_EVERY_S = 1.0


async def overdue(
    age_s: Callable[[], float | None],
    limit_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Returns once the call whose age `age_s` tells has run for `limit_s`.

    Only time in which this process ran counts: after the machine slept, or the process was
    stopped, every call looks old.
    """
    every_s = min(LOOK_EVERY_S, limit_s / 4)
    counted_s, looked_at = 0.0, clock()
    while counted_s < limit_s:
        await sleep(every_s)
        now = clock()
        # A call that began since the last look is younger than what was counted for the one before.
        counted_s = min(age_s() or 0.0, counted_s + min(now - looked_at, 2 * every_s))
        looked_at = now
