"""What happens before a model can be loaded: its weights are looked for, imported, and weighed.

Owns how far that is, in words for callers and in lines for the supervisor. Loads nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .errors import ModelLoading
from .registry import load_family
from .supervisor_logs import PROGRESS

if TYPE_CHECKING:
    from .config.resolved import ModelPlan
    from .store.progress import Progress

LOADING_RETRY_S = 2.0
"""Suggested to callers while a model is being loaded."""
IMPORT_RETRY_S = 10.0
"""Suggested while nobody knows how long an import will take."""
LONGEST_RETRY_S = 600.0


class GivenUp(Exception):
    """The process is told to end: the import stops where it is, and is gone on with later."""


class Arrival:
    """The way of one model's weights to this machine. `told`: to a supervisor, on stderr."""

    def __init__(self, plan: ModelPlan, *, told: bool) -> None:
        self._plan = plan
        self._told = told
        self._given_up = False
        self.progress: Progress | None = None
        """How far the import is; `None` while there is none."""

    def complete(self) -> ModelPlan:
        """The plan with its weights on this machine, and room for them in memory.

        For a thread that may take its time. Raises StartError, or GivenUp after `give_up`.
        """
        plan = self._plan
        if plan.missing:
            from .store.importing import ensure

            plan = ensure(plan, self._hear)
            self.progress = None
        elif self._told:  # the supervisor has checked it, together with all the others
            return plan
        from .fit import check_fit

        load_family(plan).check_weights(plan)
        check_fit(plan)
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

    def _hear(self, progress: Progress) -> None:
        if self._given_up:
            raise GivenUp
        self.progress = progress
        if self._told:
            line = f"{PROGRESS}{json.dumps(asdict(progress))}\n".encode()
            # One write, so that lines of other threads do not fall into it.
            os.write(sys.stderr.fileno(), line)


def facts_of(progress: Progress) -> dict[str, Any]:
    """The same for machines: counts are bytes where a phase moves bytes."""
    facts: Mapping[str, Any] = asdict(progress)
    return {name: facts[name] for name in ("phase", "done", "total", "eta_s")}


def _words(progress: Progress) -> str:
    if not progress.total:
        return progress.phase
    return f"{progress.phase}, {100 * progress.done // progress.total} %"
