"""Whether and when a call is tried again. Knows no protocol.

Only where nothing was started: no connection, or a refusal that says when to come again. What was
sent and then broke off is never sent twice.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ._deadline import Deadline
from .errors import ConnectionFailed, OpenLLMError

T = TypeVar("T")
FIRST_PAUSE_S = 0.2
"""Before a second try to connect; doubled before each further one."""
_ASKED = (429, 503)


def pause_before(error: OpenLLMError, tried: int, deadline: Deadline) -> float | None:
    """Seconds to wait before another try; `None`: there is no point in one.

    `tried` is how many tries there were before this one failed.
    """
    if not error.may_repeat:
        return None
    if isinstance(error, ConnectionFailed):
        pause = FIRST_PAUSE_S * 2**tried
    elif error.status in _ASKED and error.retry_after is not None:
        pause = error.retry_after
    else:
        return None
    from random import random

    # Never earlier than asked; later by a little, so that not everybody comes back at once.
    pause += (0.1 * pause + 0.01) * random()
    return pause if pause < deadline.left() else None


def tried(attempt: Callable[[], T], deadline: Deadline, retries: int) -> T:
    """What `attempt` returns, or its last error."""
    for done in range(retries):
        try:
            return attempt()
        except OpenLLMError as error:
            pause = pause_before(error, done, deadline)
            if pause is None:
                raise
        time.sleep(pause)
    return attempt()


async def async_tried(attempt: Callable[[], Awaitable[T]], deadline: Deadline, retries: int) -> T:
    """The same for tasks."""
    for done in range(retries):
        try:
            return await attempt()
        except OpenLLMError as error:
            pause = pause_before(error, done, deadline)
            if pause is None:
                raise
        import asyncio

        await asyncio.sleep(pause)
    return await attempt()
