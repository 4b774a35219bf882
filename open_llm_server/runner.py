"""A BentoML runner as a ModelPort, with typed calls: chat, complete, embed.

Owns what of BentoML's runner we use and what we go round (its stream client has no message
borders, no status check and a total timeout). Must not know routes or engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import warnings
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bentoml.legacy
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.runner.runner_handle import DummyRunnerHandle, RunnerHandle
from bentoml._internal.runner.runner_handle.local import LocalRunnerRef
from bentoml._internal.runner.runner_handle.remote import RemoteRunnerClient
from bentoml._internal.utils import BentoMLDeprecationWarning

from .config.cards import cards
from .config.devices import worker_env
from .config.merge import resolve_model
from .config.resolved import ModelPlan
from .core import InfoRequest, Message, Request
from .errors import ModelFailed, from_frame
from .frames import (
    BrokenFrame,
    Call,
    Delta,
    Failure,
    Frame,
    FrameDecoder,
    encode,
    encode_call,
)
from .gather import (
    ChatAnswer,
    CompletionAnswer,
    EmbedAnswer,
    Gathered,
    as_error,
    chat_answer,
    chat_request,
    completion_answer,
    completion_request,
    embed_answer,
    embed_request,
    gather,
    new_id,
)
from .link import LAST_FRAMES, RunnerLink
from .port import Busy, Gone, Lost
from .runnable import bento_runnable

_ANYONE = ""


def get_runner(family: str, model: str | None = None, **config: Any) -> LLMRunner:
    """A runner for one's own `bentoml.legacy.Service`.

    `model` is a source (a path or hub id), a card, or anything else that names a model on the
    command line; `config` holds generation and load fields, merged with YAML and environment as
    everywhere. Raises ConfigurationError.
    """
    if model is None:
        spec = family
    elif model in cards() or "@" in model or "=" in model:
        spec = model
    else:
        spec = f"{family}@{model}"
    return LLMRunner(resolve_model(spec, **config))


class LLMRunner(bentoml.legacy.Runner):
    """One copy of one model, in a process of its own.

    `eager` loads the model before BentoML calls the runner ready; otherwise the runner answers
    `model_loading` meanwhile. `runtime_dir` is where the supervisor says which runner is down.
    """

    plan: ModelPlan
    runtime_dir: Path | None

    def __init__(
        self, plan: ModelPlan, *, eager: bool = True, runtime_dir: Path | None = None
    ) -> None:
        _lift_time_limit(plan.runner_name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BentoMLDeprecationWarning)
            super().__init__(
                bento_runnable(plan, eager=eager, runtime_dir=runtime_dir),
                name=plan.runner_name,
                scheduling_strategy=_strategy(plan),
            )
        # BentoML's runners are frozen attrs classes.
        object.__setattr__(self, "plan", plan)
        object.__setattr__(self, "runtime_dir", runtime_dir)

    def __repr__(self) -> str:
        return f"LLMRunner({self.name!r})"

    def init_client(self, handle_class: Any = None, *args: Any, **kwargs: Any) -> None:
        """Called by BentoML in API workers; takes our stream client instead of BentoML's."""
        super().init_client(handle_class or LinkHandle, *args, **kwargs)

    async def stream(self, request: str, *, session: str = _ANYONE) -> AsyncGenerator[Frame, None]:
        """ModelPort: sends one encoded call, yields its frames; raises Busy, Gone or Lost."""
        if self._given_up():
            yield Failure(_failed(self.plan.name).frame())
            return
        handle = self._runner_handle
        if isinstance(handle, LinkHandle):
            frames = handle.link.stream(request)
        elif isinstance(handle, DummyRunnerHandle):
            raise Lost(
                started=False,
                why=f"runner {self.name} is in no running service; for a try-out without one, "
                "call init_local() first",
            )
        else:
            frames = _local_frames(self.call.async_stream(request))
        async with contextlib.aclosing(frames):
            async for frame in frames:
                yield frame

    async def chat(
        self,
        messages: str | Sequence[Message | Mapping[str, Any]],
        *,
        caller: str = _ANYONE,
        deadline_s: float | None = None,
        **sampling: Any,
    ) -> ChatAnswer:
        """The next turn of a conversation (or the answer to one user's text).

        `sampling` takes the fields of `core.Sampling`. Raises OpenLLMError, as all typed calls.
        """
        request = chat_request(messages, sampling)
        return chat_answer(await self._gather(request, caller, deadline_s))

    async def chat_stream(
        self,
        messages: str | Sequence[Message | Mapping[str, Any]],
        *,
        caller: str = _ANYONE,
        deadline_s: float | None = None,
        **sampling: Any,
    ) -> AsyncGenerator[str, None]:
        """The same, as pieces of text when they come. Closing the generator cancels the work."""
        texts = self._texts(chat_request(messages, sampling), caller, deadline_s)
        async with contextlib.aclosing(texts):
            async for text in texts:
                yield text

    async def complete(
        self,
        prompt: str | Sequence[str],
        *,
        n: int = 1,
        caller: str = _ANYONE,
        deadline_s: float | None = None,
        **sampling: Any,
    ) -> CompletionAnswer:
        """`n` continuations of each prompt; no template is applied."""
        request = completion_request(prompt, sampling, n=n)
        return completion_answer(await self._gather(request, caller, deadline_s))

    async def complete_stream(
        self,
        prompt: str,
        *,
        caller: str = _ANYONE,
        deadline_s: float | None = None,
        **sampling: Any,
    ) -> AsyncGenerator[str, None]:
        """One continuation, as pieces of text when they come."""
        texts = self._texts(completion_request(prompt, sampling, n=1), caller, deadline_s)
        async with contextlib.aclosing(texts):
            async for text in texts:
                yield text

    async def embed(
        self,
        inputs: str | Sequence[str],
        *,
        caller: str = _ANYONE,
        deadline_s: float | None = None,
    ) -> EmbedAnswer:
        """One vector for each text."""
        return embed_answer(await self._gather(embed_request(inputs), caller, deadline_s))

    async def info(self) -> dict[str, Any]:
        """What the runner says of itself: `ready`, `model`, `limits`, `queue`, counters."""
        return (await self._gather(InfoRequest(), _ANYONE, None)).facts

    def destroy(self) -> Awaitable[None]:
        """Called by BentoML at shutdown, which awaits it. Frees what this process holds: a
        loaded model, or connections to one."""
        handle = self._runner_handle
        super().destroy()
        return asyncio.ensure_future(_close(handle))

    def _open(
        self, request: Request, caller: str, deadline_s: float | None
    ) -> AsyncGenerator[Frame, None]:
        call = Call.of(request, id=new_id(), caller=caller, deadline_s=deadline_s)
        return self.stream(encode_call(call), session=caller)

    async def _gather(self, request: Request, caller: str, deadline_s: float | None) -> Gathered:
        frames = self._open(request, caller, deadline_s)
        async with contextlib.aclosing(frames):
            try:
                return await gather(frames)
            except (Busy, Gone, Lost) as lost:
                raise as_error(lost) from lost

    async def _texts(
        self, request: Request, caller: str, deadline_s: float | None
    ) -> AsyncGenerator[str, None]:
        frames = self._open(request, caller, deadline_s)
        async with contextlib.aclosing(frames):
            try:
                async for frame in frames:
                    if isinstance(frame, Failure):
                        raise from_frame(frame.error)
                    if isinstance(frame, Delta) and frame.text:
                        yield frame.text
            except (Busy, Gone, Lost) as lost:
                raise as_error(lost) from lost

    def _given_up(self) -> bool:
        """Whether the supervisor tries no more. Raises Busy while it only waits for a moment."""
        if self.runtime_dir is None:
            return False
        try:
            note = json.loads((self.runtime_dir / f"{self.name}.down").read_text())
        except (OSError, ValueError):
            return False
        if note["until"] is None:
            return True
        # The supervisor may be gone as well: a note from the past says nothing.
        if (left_s := note["until"] - time.time()) > 0:
            raise Busy(left_s)
        return False


def _failed(name: str) -> ModelFailed:
    return ModelFailed(
        f"model '{name}' could not be brought into service; the log of this server says why, and "
        "it must be started again to try once more"
    )


class LinkHandle(RemoteRunnerClient):
    """BentoML's client of a runner process, with its streams going over a RunnerLink."""

    def __init__(self, runner: LLMRunner) -> None:
        super().__init__(runner)
        self.link = RunnerLink(self._remote_runner_server_map[runner.name], name=runner.name)

    async def async_stream_method(
        self, __bentoml_method: Any, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[str, None]:
        """`runner.call.async_stream(text)` of BentoML: whole lines, one frame each."""
        (call,) = (*args, *kwargs.values())
        frames = self.link.stream(call)
        async with contextlib.aclosing(frames):
            async for frame in frames:
                yield encode(frame)

    async def is_ready(self, timeout: int) -> bool:
        """Whether the model is loaded, not only the process up: for BentoML's own /readyz."""
        runner = self._runner
        assert isinstance(runner, LLMRunner)
        try:
            return bool((await asyncio.wait_for(runner.info(), timeout)).get("ready"))
        except Exception:
            return False


async def _close(handle: RunnerHandle) -> None:
    if isinstance(handle, LinkHandle):
        await handle.link.close()
    elif isinstance(handle, LocalRunnerRef):
        await handle._runnable.hosting.close()


async def _local_frames(lines: AsyncGenerator[str, None]) -> AsyncGenerator[Frame, None]:
    """Frames of a runnable in this process (development mode, init_local)."""
    decoder = FrameDecoder()
    last: Frame | None = None
    try:
        async with contextlib.aclosing(lines):
            async for line in lines:
                for last in decoder.push(line.encode()):
                    yield last
    except BrokenFrame as broken:
        raise Lost(started=last is not None, why=str(broken)) from broken
    if not isinstance(last, LAST_FRAMES):
        raise Lost(started=last is not None, why="its answer broke off")


def _strategy(plan: ModelPlan) -> type[bentoml.legacy.Strategy]:
    """One worker, on the plan's device; a fresh class, because BentoML calls class methods."""
    environment = worker_env(plan)

    class OneWorker(bentoml.legacy.Strategy):
        @classmethod
        def get_worker_count(cls, *_: Any) -> int:
            return 1

        @classmethod
        def get_worker_env(cls, *_: Any) -> dict[str, Any]:
            return dict(environment)

    return OneWorker


def _lift_time_limit(runner_name: str) -> None:
    """No TimeoutMiddleware in the runner worker: deadlines are ours, and its timers outlive
    each request by the whole limit (900 s), hundreds of bytes each."""
    runners = BentoMLContainer.config.get()["runners"]
    own = runners.get(runner_name, runners)
    runners[runner_name] = {**own, "traffic": {**own["traffic"], "timeout": None}}
