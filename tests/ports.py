"""A ModelPort inside the test's own process, for tests of formats and of the flow of a request.

It echoes words, always in the same way, and can be told to misbehave. Tests of models and of
the server as a whole use the real thing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from open_llm_server.core import (
    SAMPLING_FIELDS,
    ChatRequest,
    CompletionRequest,
    EmbedRequest,
    FinishReason,
    InfoRequest,
    Usage,
)
from open_llm_server.errors import ContextLengthExceeded, OpenLLMError
from open_llm_server.frames import (
    Call,
    Delta,
    Embeddings,
    End,
    Failure,
    Frame,
    Info,
    Start,
    TokenScore,
    decode_call,
)

DIMENSION = 4
CONTEXT = 4096
"""Words that fit; one more is refused, as a real model does."""


@dataclass
class EchoPort:
    """Answers a chat with the last message's words, a completion with the prompt's, reversed.

    `frames` are yielded first. `raises` is raised after `after` frames of a generated answer (0:
    at once); `stalls` waits there until it is cancelled; `drops` ends the stream there. `gate`
    is awaited before each delta.
    """

    frames: Sequence[Frame] = ()
    raises: Exception | None = None
    stalls: bool = False
    drops: bool = False
    after: int = 0
    gate: asyncio.Event | None = None
    info: Frame | None = None
    info_stalls: bool = False
    calls: list[Call] = field(default_factory=list)
    infos: int = 0
    opened: int = 0
    closed: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def stream(self, request: str, *, session: str) -> AsyncGenerator[Frame, None]:
        call = decode_call(request)
        if isinstance(call.request, InfoRequest):
            self.infos += 1
            if self.info_stalls:
                await asyncio.Event().wait()
            yield self.info or _info()
            return
        self.calls.append(call)
        self.opened += 1
        self.changed.set()
        try:
            for seen, frame in enumerate((*self.frames, *answer(call))):
                if seen >= self.after:
                    await self._misbehave()
                    if self.drops:
                        return
                if self.gate is not None and isinstance(frame, Delta):
                    await self.gate.wait()
                yield frame
        finally:
            self.closed += 1
            self.changed.set()

    async def _misbehave(self) -> None:
        if self.raises is not None:
            raise self.raises
        if self.stalls:
            await asyncio.Event().wait()

    async def until_opened(self, streams: int = 1) -> None:
        while self.opened < streams:
            self.changed.clear()
            await self.changed.wait()

    async def until_closed(self) -> None:
        """Returns when as many streams were closed as were opened, at least one."""
        while not self.opened or self.closed < self.opened:
            self.changed.clear()
            await self.changed.wait()


def answer(call: Call) -> list[Frame]:
    request = call.request
    try:
        match request:
            case ChatRequest():
                return _chat(request)
            case CompletionRequest():
                return _complete(request)
            case EmbedRequest():
                return _embed(request)
            case _:
                raise AssertionError(request)
    except OpenLLMError as error:
        return [Failure(error.frame())]


def words_of(text: str) -> list[str]:
    """Words with the space before them, so that they join to the text again."""
    return [word if index == 0 else f" {word}" for index, word in enumerate(text.split())]


def vector_of(text: str) -> tuple[float, ...]:
    """Four multiples of 1/256: exact in 32 bits."""
    return tuple(byte / 256 for byte in hashlib.sha256(text.encode()).digest()[:DIMENSION])


def score_of(word: str, top: int) -> TokenScore:
    others = tuple(TokenScore(index, f"w{index}".encode(), -1.0 - index) for index in range(top))
    return TokenScore(len(word), word.encode(), -0.25, others)


def _chat(request: ChatRequest) -> list[Frame]:
    read = sum(len(message.content.split()) for message in request.messages)
    _check("messages", read)
    frames: list[Frame] = [Start(read)]
    words = words_of(request.messages[-1].content)
    written = 0
    for index in range(request.n):
        deltas, count = _deltas(index, words, request.sampling.max_tokens, request.logprobs)
        frames += deltas
        written += count
    return [*frames, End(Usage(prompt_tokens=read, completion_tokens=written), *_used(request))]


def _complete(request: CompletionRequest) -> list[Frame]:
    texts = [
        prompt if isinstance(prompt, str) else " ".join(f"t{token}" for token in prompt)
        for prompt in request.prompts
    ]
    read = 0
    for place, text in enumerate(texts):
        _check(f"prompt.{place}", len(text.split()))
        read += len(text.split())
    frames: list[Frame] = [Start(read)]
    written = 0
    for index in range(len(texts) * request.n):
        prompt = texts[index // request.n]
        if request.echo:
            frames.append(_echo(index, prompt, request.logprobs))
        words = words_of(" ".join(reversed(prompt.split())))
        deltas, count = _deltas(index, words, request.sampling.max_tokens, request.logprobs)
        frames += deltas
        written += count
    return [*frames, End(Usage(prompt_tokens=read, completion_tokens=written), *_used(request))]


def _embed(request: EmbedRequest) -> list[Frame]:
    vectors = tuple(
        vector_of(item if isinstance(item, str) else repr(list(item))) for item in request.inputs
    )
    read = len(vectors)
    return [
        Start(read),
        Embeddings(vectors, DIMENSION, "mean", "echo"),
        End(Usage(prompt_tokens=read)),
    ]


def _deltas(
    index: int, words: list[str], limit: int | None, logprobs: int | None
) -> tuple[list[Frame], int]:
    kept = words if limit is None else words[:limit]
    reason: FinishReason = "stop" if len(kept) == len(words) else "length"
    frames: list[Frame] = [
        Delta(index, word, 1, () if logprobs is None else (score_of(word, logprobs),))
        for word in kept
    ]
    return [*frames, Delta(index, "", reason=reason)], len(kept)


def _echo(index: int, prompt: str, logprobs: int | None) -> Delta:
    if logprobs is None or not prompt.split():
        return Delta(index, prompt)
    head, *rest = words_of(prompt)
    scores = (TokenScore(0, head.encode(), None), *(score_of(word, logprobs) for word in rest))
    return Delta(index, prompt, scores=scores)


def _check(param: str, count: int) -> None:
    if count > CONTEXT:
        raise ContextLengthExceeded(
            f"the prompt is {count} tokens long and this model holds {CONTEXT}; shorten it",
            param=param,
            n_prompt_tokens=count,
            n_ctx=CONTEXT,
        )


def _used(request: ChatRequest | CompletionRequest) -> tuple[dict[str, float], dict[str, Any]]:
    defaults: dict[str, Any] = {"temperature": 0.5, "seed": 7, "stop_sequence": []}
    asked = request.sampling.model_dump(exclude_none=True)
    known = {name: asked.get(name, defaults.get(name)) for name in SAMPLING_FIELDS}
    return {"queued_s": 0.0, "prompt_s": 0.0, "generate_s": 0.0}, known


def _info() -> Info:
    return Info(
        {
            "ready": True,
            "model": "echo",
            "limits": {"context_length": CONTEXT, "embedding_size": DIMENSION},
            "queue": {"running": 2, "waiting": 1},
        }
    )
