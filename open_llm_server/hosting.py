"""One model in a process: its weights, its load, its calls, its end.

Between BentoML's runnable, which only passes calls on, and `host.Host`, which answers them once the
model is there. Knows nothing of BentoML.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING

from .arrival import Arrival
from .errors import OpenLLMError, StartError, WeightsError
from .frames import Alive, Failure, decode_call, encode
from .registry import load_family
from .supervisor_logs import LAST_WORDS

if TYPE_CHECKING:
    from .config.resolved import ModelPlan
    from .host import Host

log = logging.getLogger(__name__)

PATIENCE_S = 3.0
"""A request to a model that is being loaded waits so long before it is refused."""
ALIVE_EVERY_S = 2.0
CRASH_GRACE_S = 0.25
"""Time that last frames get to leave the process after the engine broke."""


class Hosting:
    """Loads one model in the background and passes calls on.

    `runtime_dir`: the folder of the supervisor, where there is one. `wait`: calls wait for the
    load; otherwise they are refused with `model_loading` meanwhile. `leave`: the process is this
    model's alone, and ends when the model cannot be loaded (after one line that says why) or its
    engine breaks; whoever supervises it decides what follows.
    """

    def __init__(
        self, plan: ModelPlan, *, wait: bool, leave: bool, runtime_dir: Path | None = None
    ) -> None:
        self._plan = plan
        self._wait = wait
        self._leave = leave
        self._host: Host | None = None
        self._failed: OpenLLMError | None = None
        self._arrival = Arrival(plan, runtime_dir)
        self._loading: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Starts loading on the running loop, once."""
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(self._load())

    async def call(self, request: str) -> AsyncGenerator[str, None]:
        """The frames that answer one encoded call."""
        self.begin()
        assert self._loading is not None
        soon = self._arrival.progress is None
        if soon and not (self._wait or self._loading.done() or decode_call(request).op == "info"):
            # A model that is nearly there is worth the wait: better late than refused.
            await asyncio.wait({self._loading}, timeout=PATIENCE_S)
        while self._wait and not self._loading.done():
            await asyncio.wait({self._loading}, timeout=ALIVE_EVERY_S)
            yield encode(Alive())
        if self._host is None:
            yield encode(Failure((self._failed or self._arrival.refusal()).frame()))
            return
        frames = self._host.serve(request)
        try:
            async for frame in frames:
                yield frame
        finally:
            await frames.aclose()

    async def close(self) -> None:
        """Frees the model."""
        self._arrival.give_up()
        for task in (self._loading, self._watching):
            if task:
                task.cancel()
        if self._host:
            await self._host.close()

    async def _load(self) -> None:
        try:
            family = load_family(self._plan)
            family.check_installed(self._plan)
            plan = await self._arrival.completed()
            self._host = await family.load(plan, on_crash=self._crashed)
            limit_s = family.Config.model_validate(plan.config).step_timeout_s
            if limit_s:
                watch = self._watch(self._host, limit_s)
                self._watching = asyncio.get_running_loop().create_task(watch)
        except OpenLLMError as error:
            self._failed = error
        except Exception as error:
            log.exception("model %s could not be loaded", self._plan.name)
            self._failed = WeightsError(
                f"model '{self._plan.name}' could not be loaded: {type(error).__name__}: {error}"
            )
        if self._failed and self._leave:
            self._say_why(self._failed.message)
            # Not sys.exit: the event loop of the worker that runs this would swallow it.
            os._exit(getattr(self._failed, "exit_code", 1))

    async def _watch(self, host: Host, limit_s: float) -> None:
        """The engine may also hang instead of breaking; that ends in the same way."""
        await host.hung(limit_s)
        why = (
            f"the engine has been in one step for {limit_s:g} s and is taken for hung; if this "
            "machine needs so long, allow more with --step-timeout-s"
        )
        if self._leave:
            self._say_why(why)
        else:
            log.error("model %s: %s", self._plan.name, why)
        self._crashed(TimeoutError(why))

    def _say_why(self, message: str) -> None:
        """The last words of this process, for its supervisor."""
        sys.stderr.write(f"{LAST_WORDS}{self._plan.name}: {message}\n")
        sys.stderr.flush()

    def _crashed(self, _: BaseException) -> None:
        if self._leave:
            # The error frames of live requests get a moment to leave first.
            threading.Timer(CRASH_GRACE_S, os._exit, (StartError.exit_code,)).start()
