"""One loaded model answering calls: prompts to the worker, updates to frames.

Lives in the model's own process, on its event loop. Knows nothing of BentoML, sockets or HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any

from .core import ChatRequest, CompletionRequest, EmbedRequest, InfoRequest, Usage
from .engine.base import Engine
from .engine.prompts import PromptFormat
from .engine.ticket import Ticket, Vectors
from .engine.watchdog import overdue
from .engine.worker import Worker
from .errors import EngineError, NotSupported, OpenLLMError
from .frames import (
    Alive,
    Call,
    Embeddings,
    End,
    Failure,
    Frame,
    Info,
    Start,
    decode_call,
    encode,
)
from .framing import Echoes, timings_of, to_frames, usage_of
from .generation import Settings, check_beams, tasks_for
from .prompting import Prompting

log = logging.getLogger(__name__)

ALIVE_EVERY_S = 5.0
"""The API gives a silent model up after several of these."""


@dataclass(frozen=True)
class Identity:
    """What a host says about its model."""

    name: str
    family: str
    source: str
    engine: str
    card: str | None = None
    stop: tuple[str, ...] = ()
    """Texts that end a chat answer in this prompt format."""
    facts: dict[str, Any] = field(default_factory=dict)


class Host:
    """Answers calls with frames. Made by a family's `load`; `close` frees the model."""

    def __init__(
        self,
        *,
        engine: Engine,
        worker: Worker,
        prompts: PromptFormat,
        settings: Settings,
        identity: Identity,
    ) -> None:
        self._engine = engine
        self._worker = worker
        self._settings = settings
        self._identity = identity
        self._prompting = Prompting(
            engine=engine, prompt_format=prompts, preprompt=settings.prompt, model=identity.name
        )
        self._started_at = time.monotonic()

    async def serve(self, call: str) -> AsyncGenerator[str, None]:
        """The frames that answer one encoded `Call`, each an ASCII line.

        Every failure is a frame too. Closing the generator cancels the work within a step.
        """
        try:
            frames = self._answer(decode_call(call))
            try:
                async for frame in frames:
                    yield encode(frame)
            finally:
                await frames.aclose()
        except OpenLLMError as error:
            yield encode(Failure(error.frame()))
        except Exception as error:
            log.exception("a request failed in an unexpected way")
            failure = EngineError(f"the model's process failed on this request ({error!r})")
            yield encode(Failure(failure.frame()))

    async def close(self) -> None:
        # Tokenisers read the model's vocabulary: they end before the engine frees it.
        await self._prompting.stop()
        await asyncio.to_thread(self._worker.stop)
        await self._prompting.close()

    async def hung(self, limit_s: float) -> None:
        """Returns when an engine call has run for `limit_s`; all live requests have failed then."""
        await overdue(lambda: self._worker.step_age_s, limit_s)
        self._worker.give_up(
            EngineError(
                "the model's engine hung on this request or one beside it, and is being replaced; "
                "ask again once, and change the prompt if it fails again"
            )
        )

    # -- one answer -----------------------------------------------------------------------

    def _answer(self, call: Call) -> AsyncGenerator[Frame, None]:
        match call.request:
            case InfoRequest():
                return self._info()
            case EmbedRequest() as request:
                return self._embed(call, request)
            case ChatRequest() | CompletionRequest() as request:
                return self._generate(call, request)

    async def _generate(
        self, call: Call, request: ChatRequest | CompletionRequest
    ) -> AsyncGenerator[Frame, None]:
        self._refuse_unfit(request)
        settings = self._settings.override(request.sampling)
        check_beams(
            settings,
            self._engine.limits,
            slots=self._worker.running,
            choices=request.n,
            logprobs=request.logprobs,
        )
        deadline = self._deadline(call)
        echo, stop, places = False, self._identity.stop, request.n
        if isinstance(request, CompletionRequest):
            echo, stop, places = request.echo, (), request.n * len(request.prompts)
        self._worker.refuse_if_gone()
        self._worker.admission.check(places)
        preparing = asyncio.ensure_future(self._prompting.prompts(request))
        self._worker.coming += 1
        try:
            # Templates and tokenisers of others may go first: say that somebody is there.
            while not (await asyncio.wait({preparing}, timeout=ALIVE_EVERY_S))[0]:
                yield Alive()
        finally:
            preparing.cancel()
            self._worker.coming -= 1
        prompts = preparing.result()
        scored = echo and request.logprobs is not None
        tasks = tasks_for(
            prompts,
            settings=settings,
            stop=stop,
            choices=request.n,
            logprobs=request.logprobs,
            score_prompt=scored,
            context_length=self._engine.limits.context_length,
            whole_prompt=self._engine.limits.whole_prompt,
            caller=call.caller,
            deadline=deadline,
        )
        ticket = Ticket(caller=call.caller, tasks=tasks, deadline=deadline)
        echoes = Echoes(prompts, request.n, self._engine, scored=scored) if echo else None
        async with _Running(self._worker, ticket):
            start = Start(sum(len(prompt.tokens) for prompt in prompts))
            async with aclosing(self._frames(ticket, echoes, start)) as frames:
                async for frame in frames:
                    yield frame
            yield End(
                usage=usage_of(prompts, ticket, request.n),
                timings=timings_of(ticket),
                configuration=settings.echo(),
            )

    def _refuse_unfit(self, request: ChatRequest | CompletionRequest) -> None:
        """What this model cannot do, whatever the rest of the request says."""
        limits, name = self._engine.limits, self._identity.name
        if not limits.generates:
            raise NotSupported(
                f"model '{name}' makes embeddings only; send it texts at /embed or "
                "/v1/embeddings, or name a model that generates",
                param="model",
            )
        echo = isinstance(request, CompletionRequest) and request.echo
        if limits.whole_prompt and echo and request.logprobs is not None:
            raise NotSupported(
                f"model '{name}' reads prompts with an encoder, which gives their tokens no "
                "log-probabilities; ask for echo or for logprobs, not for both",
                param="echo",
            )

    async def _frames(
        self, ticket: Ticket, echoes: Echoes | None, start: Start
    ) -> AsyncGenerator[Frame, None]:
        async with aclosing(ticket.updates(alive_every_s=ALIVE_EVERY_S)) as arriving:
            async for updates in arriving:
                if not updates:
                    yield Alive()
                for frame in to_frames(updates, echoes, start):
                    yield frame

    async def _embed(self, call: Call, request: EmbedRequest) -> AsyncGenerator[Frame, None]:
        limits = self._engine.limits
        if limits.embedding_size is None:
            raise NotSupported(
                f"model '{self._identity.name}' makes no embeddings; name one that does",
                param="model",
            )
        deadline = self._deadline(call)
        self._worker.refuse_if_gone()
        self._worker.admission.check(1)
        inputs, count = await self._prompting.inputs(request)
        ticket = Ticket(caller=call.caller, inputs=inputs, deadline=deadline)
        async with _Running(self._worker, ticket):
            yield Start(count)
            async with aclosing(ticket.updates(alive_every_s=ALIVE_EVERY_S)) as arriving:
                async for updates in arriving:
                    if not updates:
                        yield Alive()
                    for update in updates:
                        if isinstance(update, Vectors):
                            yield Embeddings(
                                vectors=update.vectors,
                                dimension=limits.embedding_size,
                                pooling=limits.pooling,
                                model=self._identity.name,
                            )
            yield End(usage=Usage(prompt_tokens=count), timings=timings_of(ticket))

    async def _info(self) -> AsyncGenerator[Frame, None]:
        limits, worker, identity = self._engine.limits, self._worker, self._identity
        yield Info(
            {
                "ready": worker.crash is None,
                "model": identity.name,
                "family": identity.family,
                "card": identity.card,
                "source": identity.source,
                "engine": identity.engine,
                "generates": limits.generates,
                "uptime_s": round(time.monotonic() - self._started_at, 3),
                "limits": {
                    "context_length": limits.context_length,
                    "slots": worker.running,
                    "queue_size": worker.admission.capacity - worker.running,
                    "vocabulary": limits.vocabulary,
                    "embedding_size": limits.embedding_size,
                    "pooling": limits.pooling,
                },
                "queue": {"running": worker.num_running, "waiting": worker.num_waiting},
                "counters": {"refused": worker.admission.refused, **asdict(worker.counters)},
                "configuration": self._settings.echo(),
                **identity.facts,
            }
        )

    @staticmethod
    def _deadline(call: Call) -> float | None:
        return None if call.deadline_s is None else time.monotonic() + call.deadline_s


class _Running:
    """Submits a ticket, and makes sure that it is gone when its reader is."""

    def __init__(self, worker: Worker, ticket: Ticket) -> None:
        self._worker = worker
        self._ticket = ticket

    async def __aenter__(self) -> None:
        self._worker.submit(self._ticket)

    async def __aexit__(self, *_: object) -> None:
        if self._ticket.finished_at is None:
            self._worker.cancel(self._ticket)
