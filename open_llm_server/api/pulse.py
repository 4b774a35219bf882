"""How the models are right now: asked of them with a short bound, remembered for a moment.

However many probes arrive, each model is asked at most twice a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..core import InfoRequest
from ..errors import Draining, ModelLoading, from_frame
from ..frames import Call, Failure, Info, encode_call
from ..port import Busy, Gone, Lost
from .catalog import Catalog, Model, Replica

State = Literal["ready", "loading", "restarting", "lost", "silent", "failed"]

ASK_LIMIT_S = 1.0
REMEMBER_S = 0.5
RETRY_S = 2.0
LOOK_EVERY_S = 0.1
DRAIN_RETRY_S = 5.0
CUT_EVERY_S = 0.5
"""How soon an answer that waits for its model hears of the drain: in less than uvicorn's grace."""
_WORST_LAST: tuple[State, ...] = ("ready", "loading", "restarting", "silent", "lost", "failed")


@dataclass(frozen=True)
class Condition:
    """One copy of a model. `facts` is what it says of itself, when it can."""

    state: State
    facts: Mapping[str, Any]
    retry_after: float = RETRY_S
    progress: Mapping[str, Any] | None = None
    """How far the import of its weights is."""


@dataclass(frozen=True)
class ModelCondition:
    """A model is as well as its best copy."""

    copies: tuple[Condition, ...]

    @property
    def state(self) -> State:
        return min((copy.state for copy in self.copies), key=_WORST_LAST.index)

    @property
    def facts(self) -> Mapping[str, Any]:
        return next((copy.facts for copy in self.copies if copy.facts), {})

    @property
    def retry_after(self) -> float:
        return min(copy.retry_after for copy in self.copies)

    @property
    def progress(self) -> Mapping[str, Any] | None:
        return next((copy.progress for copy in self.copies if copy.progress), None)


class Pulse:
    """Asks all models at once; callers that come meanwhile share the answer."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._asking: asyncio.Task[dict[str, ModelCondition]] | None = None
        self._known: dict[str, ModelCondition] = {}
        self._known_at = float("-inf")

    async def conditions(self) -> dict[str, ModelCondition]:
        loop = asyncio.get_running_loop()
        if loop.time() - self._known_at < REMEMBER_S:
            return self._known
        if self._asking is None or self._asking.done() or self._asking.get_loop() is not loop:
            self._asking = loop.create_task(self._ask_all())
        # Shielded: the first caller may leave while others wait for the same answer.
        return await asyncio.shield(self._asking)

    async def _ask_all(self) -> dict[str, ModelCondition]:
        models = [*self._catalog]
        found = await asyncio.gather(*(_ask_model(model) for model in models))
        self._known = {model.name: told for model, told in zip(models, found, strict=True)}
        self._known_at = asyncio.get_running_loop().time()
        return self._known


async def _ask_model(model: Model) -> ModelCondition:
    return ModelCondition(tuple(await asyncio.gather(*map(_ask, model.replicas))))


async def _ask(replica: Replica) -> Condition:
    try:
        return await asyncio.wait_for(_info(replica), ASK_LIMIT_S)
    except asyncio.TimeoutError:
        return Condition("silent", {})
    except Busy as busy:
        return Condition("restarting", {}, busy.retry_after)
    except (Gone, Lost):
        return Condition("lost", {})


async def _info(replica: Replica) -> Condition:
    call = encode_call(Call.of(InfoRequest(), id="info", deadline_s=ASK_LIMIT_S))
    async with contextlib.aclosing(replica.port.stream(call, session="")) as frames:
        async for frame in frames:
            if isinstance(frame, Info):
                return Condition("ready" if frame.facts.get("ready") else "failed", frame.facts)
            if isinstance(frame, Failure):
                error = from_frame(frame.error)
                state: State = "loading" if isinstance(error, ModelLoading) else "failed"
                progress = error.extra.get("progress")
                return Condition(state, {}, error.retry_after or RETRY_S, progress)
    return Condition("lost", {})


class Drain:
    """Whether the supervisor has said that this server is about to stop, and when it will."""

    def __init__(self, runtime_dir: Path | None, limit_s: float) -> None:
        self._sign = None if runtime_dir is None else runtime_dir / "draining"
        self._limit_s = limit_s
        self._looked_at = float("-inf")
        self._ends_at: float | None = None

    def begin(self) -> None:
        """From now on, where no supervisor has said so before."""
        if not self.active():
            self._ends_at = asyncio.get_running_loop().time() + self._limit_s

    def active(self) -> bool:
        return self._look() is not None

    def refuse(self) -> None:
        """Raises Draining while the server is stopping."""
        if self.active():
            raise Draining(
                "this server is shutting down and takes no new requests; try again, another "
                "server may answer",
                retry_after=DRAIN_RETRY_S,
            )

    def cut(self) -> float:
        """Until when an answer may go on before it asks again. Raises Draining past the limit."""
        ends_at = self._look()
        now = asyncio.get_running_loop().time()
        if ends_at is None:
            return now + CUT_EVERY_S
        if now >= ends_at:
            raise Draining(
                f"this server is shutting down, and the answer was not complete {self._limit_s:g} "
                "s later; ask again, another server may answer",
                retry_after=DRAIN_RETRY_S,
            )
        return ends_at

    def _look(self) -> float | None:
        now = asyncio.get_running_loop().time()
        # Never taken back, and not looked for on every request.
        if self._sign is None or self._ends_at is not None or now - self._looked_at < LOOK_EVERY_S:
            return self._ends_at
        self._looked_at = now
        with contextlib.suppress(FileNotFoundError):
            age_s = time.time() - self._sign.stat().st_mtime
            self._ends_at = now + self._limit_s - min(max(age_s, 0.0), self._limit_s)
        return self._ends_at
