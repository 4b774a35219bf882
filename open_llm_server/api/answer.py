"""The way of one request through a model: placement, first frame, silence, deadline, close.

The one function of it that all routes share. Knows frames and ports, but no wire format.
"""

from __future__ import annotations

import asyncio

from starlette.types import Receive

from ..core import Request
from ..errors import (
    DeadlineExceeded,
    Draining,
    EngineError,
    ModelLoading,
    ModelNotFound,
    OpenLLMError,
    QueueFull,
    RunnerLost,
    from_frame,
)
from ..frames import Alive, Call, Delta, End, Failure, Frame, encode_call
from ..gather import as_error
from ..port import Busy, Gone, Lost
from .catalog import Catalog, Model, Replica
from .exchange import ClientGone
from .feed import Feed
from .metrics import Meter
from .pulse import Drain
from .settings import ApiSettings
from .visit import Visit

DEADLINE_GRACE_S = 2.0
"""The model keeps the deadline itself and says so; past this it is not waited for."""
_ELSEWHERE = (QueueFull, ModelLoading, Draining)
"""Refusals of one copy of a model that another copy may not share."""


class Answer:
    """One request being answered. `open` first; `close` in every case."""

    def __init__(
        self,
        model: Model,
        request: Request,
        visit: Visit,
        *,
        catalog: Catalog,
        drain: Drain,
        settings: ApiSettings,
        meter: Meter,
        timeout_s: float,
        receive: Receive | None = None,
    ) -> None:
        self._model = model
        self._catalog = catalog
        self._drain = drain
        self._settings = settings
        self._meter = meter
        self._session = visit.caller
        self._loop = asyncio.get_running_loop()
        self._deadline_at = self._loop.time() + timeout_s
        self._timeout_s = timeout_s
        self._call = encode_call(
            Call.of(request, id=visit.id, caller=visit.caller, deadline_s=timeout_s)
        )
        self._feed: Feed | None = None
        self._held: list[Frame] = []
        self._failed: OpenLLMError | None = None
        self._client_gone = False
        # Where the door cancels the whole call when its client leaves, there is nothing to watch.
        self._watch = receive and self._loop.create_task(self._watch_client(receive))
        self._complete = False

    @property
    def ended(self) -> bool:
        """Whether every frame has been taken, and the last one was an end."""
        return self._complete and not self._held

    async def open(self) -> list[Frame]:
        """Awaits the frame that decides whether there will be an answer; before it, every
        refusal still has its own status. Gives the frames so far, which `take` gives again."""
        lost = 0
        replicas = self._model.by_load()
        for left, replica in zip(reversed(range(len(replicas))), replicas, strict=True):
            try:
                self._held = await self._first(replica)
            except OpenLLMError as error:
                lost += isinstance(error, RunnerLost)
                if not left or lost > 1 or not self._may_go_elsewhere(error):
                    raise
                await self._close_feed()
            else:
                break
        return self._held

    async def take(self, idle_s: float | None = None) -> list[Frame]:
        """The frames that are ready, at least one; or none after `idle_s` without any.

        Raises the error that ended the answer, or ClientGone.
        """
        if self._held:
            held, self._held = self._held, []
            return held
        feed = self._feed
        assert feed is not None
        idle_at = None if idle_s is None else self._loop.time() + idle_s
        while True:
            if self._client_gone:
                raise ClientGone
            if self._failed:
                raise self._failed
            cut_at = self._drain.cut()
            if frames := self._sort(feed.take()):
                return frames
            if self._failed or feed.failure or feed.done:
                raise self._failed or self._lost(feed.failure)
            now = self._loop.time()
            if idle_at is not None and now >= idle_at:
                return []
            await feed.wait(min(self._next_limit(feed, now, idle_at), cut_at) - now)

    async def close(self) -> None:
        if self._watch:
            self._watch.cancel()
        await self._close_feed()

    # -- parts ------------------------------------------------------------------------------

    async def _first(self, replica: Replica) -> list[Frame]:
        self._feed = Feed(replica, self._call, session=self._session, on_frame=self._meter.frame)
        began_at = self._loop.time()
        frames: list[Frame] = []
        # A sign of life decides nothing, but a client must not be left in doubt for ever.
        while all(isinstance(frame, Alive) for frame in frames):
            frames += await self.take(self._settings.keep_alive_s)
            waited_s = self._loop.time() - began_at
            if frames and waited_s >= self._settings.keep_alive_s:
                break
        if self._failed and not any(isinstance(frame, Delta) for frame in frames):
            raise self._failed
        return frames

    def _sort(self, frames: list[Frame]) -> list[Frame]:
        """Keeps a failure back until what came before it has been taken."""
        for index, frame in enumerate(frames):
            if isinstance(frame, Failure):
                self._failed = from_frame(frame.error)
                return frames[:index]
            if isinstance(frame, End):
                self._complete = True
                return frames[: index + 1]
        return frames

    def _next_limit(self, feed: Feed, now: float, idle_at: float | None) -> float:
        silent_at = feed.seen_at + self._settings.silence_s
        late_at = self._deadline_at + DEADLINE_GRACE_S
        if now >= late_at:
            raise DeadlineExceeded(
                f"the answer was not complete within {self._timeout_s:g} s; ask for fewer tokens, "
                "or for more time with the X-Request-Timeout header (over gRPC: a later deadline)"
            )
        if now >= silent_at:
            raise self._lost(Lost(started=feed.started, why="it fell silent"))
        return min(silent_at, late_at, silent_at if idle_at is None else idle_at)

    def _lost(self, failure: Exception | None) -> OpenLLMError:
        match failure:
            case None:
                failure = Lost(started=True, why="its answer broke off")
            case Gone():
                return self._catalog.unknown(self._model.name)
            case Busy() | Lost() | OpenLLMError():
                pass
            case _:
                return EngineError(
                    "the request failed inside the server; its log has the details under this "
                    "request's id"
                )
        return as_error(failure)

    def _may_go_elsewhere(self, error: OpenLLMError) -> bool:
        assert self._feed is not None
        # A failure frame is a frame, but one that says that nothing was started.
        refused = self._failed is not None and isinstance(error, _ELSEWHERE)
        unseen = not self._feed.started and isinstance(error, RunnerLost | ModelNotFound)
        self._failed = None
        return refused or unseen

    async def _watch_client(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._client_gone = True
        if self._feed is not None:
            self._feed.wake()

    async def _close_feed(self) -> None:
        if self._feed is not None:
            feed, self._feed = self._feed, None
            await feed.close()
