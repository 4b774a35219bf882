"""The frames of one call to one copy of a model, read ahead by a task of their own.

One waiter can so be woken by whatever comes first: frames, the end, a timer, a client that
left. No task is made per frame, and frames that are ready together are handed over together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable

from ..frames import End, Failure, Frame, Info
from ..port import Busy, Gone, Lost
from .catalog import Replica

log = logging.getLogger(__name__)

READ_AHEAD = 256
"""Frames held for a slow reader before the port is left to wait."""
LINGER_S = 2.0
"""After an answer's last frame, its stream may take so long to end by itself; then its
connection can be used again."""

_LAST = (End, Failure, Info)
_lingering: set[asyncio.Task[None]] = set()


class Feed:
    """Reading starts at once. `close` in every case."""

    def __init__(
        self, replica: Replica, call: str, *, session: str, on_frame: Callable[[Frame], None]
    ) -> None:
        self._replica = replica
        self._loop = asyncio.get_running_loop()
        self._frames: deque[Frame] = deque()
        self._on_frame = on_frame
        self._woken: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._complete = False
        self.seen_at = self._loop.time()
        """When the model last gave a sign of life."""
        self.started = False
        self.done = False
        self.failure: Exception | None = None
        replica.in_flight += 1
        self._task = self._loop.create_task(self._pump(call, session))

    def take(self) -> list[Frame]:
        """What has arrived; maybe nothing."""
        frames = [*self._frames]
        self._frames.clear()
        if self._room is not None and not self._room.done():
            self.seen_at = self._loop.time()
            self._room.set_result(None)
        return frames

    async def wait(self, limit_s: float) -> None:
        """Until something happened, or `limit_s` has passed."""
        if self._frames or self.done:
            return
        self._woken = self._loop.create_future()
        timer = self._loop.call_later(limit_s, self.wake)
        try:
            await self._woken
        finally:
            timer.cancel()
            self._woken = None

    def wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def close(self) -> None:
        """Ends the call: cancels the work unless its answer is complete."""
        self._frames.clear()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._task.done():
            return
        if self._complete:
            _lingering.add(self._task)
            timer = self._loop.call_later(LINGER_S, self._task.cancel)
            self._task.add_done_callback(_lingering.discard)
            self._task.add_done_callback(lambda _: timer.cancel())
            return
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=LINGER_S)

    async def _pump(self, call: str, session: str) -> None:
        try:
            await self._read(call, session)
        except (Busy, Gone, Lost) as failure:
            self.failure = failure
        except Exception as failure:
            log.exception("a model's port raised what it must not")
            self.failure = failure
        finally:
            self._replica.in_flight -= 1
            self.done = True
            self.wake()

    async def _read(self, call: str, session: str) -> None:
        last: Frame | None = None
        async with contextlib.aclosing(self._replica.port.stream(call, session=session)) as frames:
            async for frame in frames:
                last = frame
                self.started = True
                self.seen_at = self._loop.time()
                self._complete = self._complete or isinstance(frame, End | Failure)
                self._on_frame(frame)
                self._frames.append(frame)
                self.wake()
                if len(self._frames) >= READ_AHEAD and not self._complete:
                    self._room = self._loop.create_future()
                    await self._room
        if not isinstance(last, _LAST):
            raise Lost(started=last is not None, why="its answer broke off")
