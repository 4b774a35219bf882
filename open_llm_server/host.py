"""One loaded model answering calls: text to tokens, tokens to the worker, updates to frames.

Lives in the model's own process, on its event loop. Knows nothing of BentoML, sockets or HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from .core import ChatRequest, CompletionRequest, EmbedRequest, InfoRequest, Message, Usage
from .engine.base import Engine
from .engine.prompts import PromptFormat, Segment
from .engine.ticket import Ticket, Vectors
from .engine.watchdog import overdue
from .engine.worker import Worker
from .errors import ContextLengthExceeded, EngineError, InvalidField, NotSupported, OpenLLMError
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
from .generation import Prompt, Settings, tasks_for

log = logging.getLogger(__name__)
Made = TypeVar("Made")

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
        self._prompts = prompts
        self._settings = settings
        self._identity = identity
        # Tokenisers are native code: off the loop, but two at a time are enough.
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tokenize")
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
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._worker.stop)
        await self._prompts.close()

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
        deadline = self._deadline(call)
        echo, stop, places = False, self._identity.stop, request.n
        if isinstance(request, CompletionRequest):
            echo, stop, places = request.echo, (), request.n * len(request.prompts)
        self._worker.refuse_if_gone()
        self._worker.admission.check(places)
        preparing = asyncio.ensure_future(self._prepare(request))
        self._worker.coming += 1
        try:
            # Templates and tokenisers of others may go first: say that somebody is there.
            while not (await asyncio.wait({preparing}, timeout=ALIVE_EVERY_S))[0]:
                yield Alive()
        finally:
            preparing.cancel()
            self._worker.coming -= 1
        prompts = preparing.result()
        settings = self._settings.override(request.sampling)
        scored = echo and request.logprobs is not None
        tasks = tasks_for(
            prompts,
            settings=settings,
            stop=stop,
            choices=request.n,
            logprobs=request.logprobs,
            score_prompt=scored,
            context_length=self._engine.limits.context_length,
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
        inputs: list[Sequence[int]] = []
        for index, text in enumerate(request.inputs):
            tokens = await self._tokens(text, f"input.{index}")
            if not tokens:
                raise InvalidField("an input to embed must not be empty", param=f"input.{index}")
            self._check_length(len(tokens), limits.context_length, f"input.{index}")
            inputs.append(tokens)
        ticket = Ticket(caller=call.caller, inputs=inputs, deadline=deadline)
        count = sum(map(len, inputs))
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

    # -- prompts --------------------------------------------------------------------------

    async def _chat_prompt(self, request: ChatRequest) -> Prompt:
        messages = with_preprompt(request.messages, self._settings.prompt)
        segments = await self._prompts.render(messages)
        try:
            tokens = await self._in_thread(lambda: chat_tokens(self._engine, segments))
        except ContextLengthExceeded as error:
            error.param = "messages"
            raise
        return self._prompt("", tokens, "messages")

    async def _prepare(self, request: ChatRequest | CompletionRequest) -> list[Prompt]:
        if isinstance(request, ChatRequest):
            return [await self._chat_prompt(request)]
        return [
            await self._text_prompt(prompt, index, apart=request.echo)
            for index, prompt in enumerate(request.prompts)
        ]

    async def _text_prompt(self, prompt: str | Sequence[int], index: int, *, apart: bool) -> Prompt:
        """The operator's pre-prompt and the caller's text; `apart`: with a border in tokens."""
        param, head = f"prompt.{index}", self._settings.prompt
        text = prompt if isinstance(prompt, str) else None
        if not head:
            return self._prompt(text, await self._tokens(prompt, param), param)
        if isinstance(prompt, str) and not apart:
            return self._prompt(text, await self._tokens(head + prompt, param), param)
        first = await self._tokens(head, param)
        rest = await self._tokens(prompt, param, begin=False)
        return self._prompt(text, [*first, *rest], param, skip=len(first))

    def _prompt(self, text: str | None, tokens: list[int], param: str, *, skip: int = 0) -> Prompt:
        if not tokens:
            raise InvalidField(
                "the prompt is empty, and this model has no begin token to start from; "
                "send some text",
                param=param,
            )
        # One place must be left for the first new token.
        self._check_length(len(tokens), self._engine.limits.context_length - 1, param)
        return Prompt(text=text, tokens=tokens, skip=skip)

    async def _tokens(
        self, prompt: str | Sequence[int], param: str, *, begin: bool = True
    ) -> list[int]:
        if isinstance(prompt, str):
            try:
                return await self._in_thread(
                    lambda: self._engine.tokenize(prompt, begin=begin, control=False)
                )
            except ContextLengthExceeded as error:
                error.param = param
                raise
            except ValueError as unfit:
                raise InvalidField(
                    f"this text cannot be turned into tokens: {unfit}", param=param
                ) from unfit
        vocabulary = self._engine.limits.vocabulary
        for place, token in enumerate(prompt):
            if token >= vocabulary:
                raise InvalidField(
                    f"token id {token} is outside of this model's vocabulary of {vocabulary}",
                    param=f"{param}.{place}",
                )
        return list(prompt)

    def _check_length(self, count: int, room: int, param: str) -> None:
        if count > room:
            context_length = self._engine.limits.context_length
            raise ContextLengthExceeded(
                f"the prompt is {count} tokens long and model '{self._identity.name}' holds "
                f"{context_length}, answer included; shorten it, or start the server with a "
                "larger --context-length",
                param=param,
                n_prompt_tokens=count,
                n_ctx=context_length,
            )

    async def _in_thread(self, make: Callable[[], Made]) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._threads, make)

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


def with_preprompt(messages: Sequence[Message], preprompt: str | None) -> list[Message]:
    """The operator's pre-prompt comes first, ahead of the caller's own system message."""
    if not preprompt:
        return list(messages)
    head, *rest = messages
    if head.role == "system":
        return [Message(role="system", content=f"{preprompt}\n\n{head.content}"), *rest]
    return [Message(role="system", content=preprompt), *messages]


def chat_tokens(engine: Engine, segments: Sequence[Segment]) -> list[int]:
    """Tokens of a rendered conversation, begin token once."""
    tokens: list[int] = []
    for index, segment in enumerate(segments):
        tokens += engine.tokenize(segment.text, begin=index == 0, control=segment.control)
    # Templates that spell out the begin token meet tokenisers that add it.
    if len(tokens) > 1 and tokens[0] == tokens[1] and not engine.piece(tokens[0]):
        del tokens[0]
    return tokens
