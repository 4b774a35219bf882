"""What happens before a model can be loaded: its weights are looked for, imported, and weighed.

Owns how far that is, in words for callers and in lines for the supervisor, and that a model stays
what it was for as long as its server runs. Loads nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config.stored import look_up
from .errors import ModelLoading
from .registry import load_family
from .supervisor_logs import PROGRESS

if TYPE_CHECKING:
    from .config.resolved import ModelPlan
    from .store.progress import Progress

log = logging.getLogger(__name__)
LOADING_RETRY_S = 2.0
"""Suggested to callers while a model is being loaded."""
IMPORT_RETRY_S = 10.0
"""Suggested while nobody knows how long an import will take."""
LONGEST_RETRY_S = 600.0
LONGEST_NOTE = 100
"""So that a line goes through a pipe in one piece."""


class GivenUp(Exception):
    """The process is told to end: the import stops where it is, and is gone on with later."""


class Arrival:
    """The way of one model's weights to this machine.

    `runtime_dir`: the folder of the supervisor that hears of it; `None` where there is none, as in
    somebody else's service.
    """

    def __init__(self, plan: ModelPlan, runtime_dir: Path | None) -> None:
        self._plan = plan
        self._supervised = runtime_dir is not None
        self._pin = runtime_dir and runtime_dir / f"{plan.runner_name}.stored"
        self._given_up = False
        self.progress: Progress | None = None
        """How far the import is; `None` while there is none."""

    async def completed(self) -> ModelPlan:
        """`complete`, in a thread that keeps no process alive."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[ModelPlan] = loop.create_future()

        def work() -> None:
            found: ModelPlan | BaseException
            try:
                found = self.complete()
            except BaseException as error:
                found = error
            with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits
                loop.call_soon_threadsafe(settle, found)

        def settle(found: ModelPlan | BaseException) -> None:
            if done.cancelled():
                return
            if isinstance(found, BaseException):
                done.set_exception(found)
            else:
                done.set_result(found)

        threading.Thread(target=work, name="arrival", daemon=True).start()
        return await done

    def complete(self) -> ModelPlan:
        """The plan with its weights on this machine, and room for them in memory.

        A model that was replaced in the store since this server has loaded it stays what it was,
        as long as it is there; what it becomes then is logged. Raises StartError, or GivenUp after
        `give_up`.
        """
        plan = self._located()
        if plan.missing:
            from .store.importing import ensure

            plan = ensure(plan, self._hear)
            self.progress = None
        elif self._supervised:  # the supervisor has checked it, together with all the others
            self._remember(plan)
            return plan
        from .fit import check_fit

        load_family(plan).check_weights(plan)
        check_fit(plan)
        self._remember(plan)
        return plan

    def give_up(self) -> None:
        """Ends an import within moments; what has been fetched stays for the next try."""
        self._given_up = True

    def refusal(self) -> ModelLoading:
        """What a caller hears who comes too early."""
        progress = self.progress
        if progress is None:
            return ModelLoading(
                f"model '{self._plan.name}' is being loaded; try again shortly",
                retry_after=LOADING_RETRY_S,
            )
        retry_s = IMPORT_RETRY_S if progress.eta_s is None else progress.eta_s + LOADING_RETRY_S
        return ModelLoading(
            f"model '{self._plan.name}' is being imported ({_words(progress)}); try again later",
            retry_after=min(retry_s, LONGEST_RETRY_S),
            progress=facts_of(progress),
        )

    def _located(self) -> ModelPlan:
        """The plan with where its weights are now: the store may have changed since it was made."""
        plan = self._plan
        if plan.source is None or plan.source.kind not in ("hub", "store"):
            return plan
        stored = self._remembered() or plan.stored
        if stored is None or not Path(stored).exists():
            kind = load_family(plan).weights_of(plan.config)
            found = look_up(plan.source, kind, plan.name)
            stored = str(found) if found else None
        return plan.model_copy(update={"stored": stored})

    def _remember(self, plan: ModelPlan) -> None:
        before = self._remembered() or self._plan.stored
        if before and plan.stored and _version(before) != _version(plan.stored):
            log.warning(
                "the store no longer has %s, which model %s served until now; it serves %s from "
                "now on. To have the other back, import it and start again",
                _tag(before),
                plan.name,
                _tag(plan.stored),
            )
        if self._pin and plan.stored:
            self._pin.write_text(plan.stored)

    def _remembered(self) -> str | None:
        with contextlib.suppress(OSError):
            return self._pin.read_text() if self._pin else None
        return None

    def _hear(self, progress: Progress) -> None:
        if self._given_up:
            raise GivenUp
        self.progress = progress
        if self._supervised:
            told = replace(progress, note=progress.note[:LONGEST_NOTE])
            line = f"{PROGRESS}{json.dumps(asdict(told))}\n".encode()
            # One write, so that lines of other threads do not fall into it.
            os.write(sys.stderr.fileno(), line)


def _tag(stored: str) -> str:
    """As what `stored` is in the store; a path elsewhere is its own name."""
    from .store.places import models

    with contextlib.suppress(ValueError):
        return ":".join(Path(stored).relative_to(models()).parts[:2])
    return stored


def _version(stored: str) -> str:
    """The same for the same commit, file and scheme, whatever it is called."""
    return _tag(stored).rpartition(":")[2]


def facts_of(progress: Progress) -> dict[str, Any]:
    """The same for machines: counts are bytes where a phase moves bytes."""
    facts = asdict(progress)
    return {name: facts[name] for name in ("phase", "done", "total", "eta_s")}


def _words(progress: Progress) -> str:
    if not progress.total:
        return progress.phase
    return f"{progress.phase}, {100 * progress.done // progress.total} %"
