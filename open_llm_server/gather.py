"""From keywords to a call, and from frames to one answer: what non-stream callers share.

Pure: knows frames and nouns; no socket, no BentoML, no wire format.
"""

from __future__ import annotations

import difflib
import secrets
from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from .core import (
    SAMPLING_FIELDS,
    ChatRequest,
    CompletionRequest,
    EmbedRequest,
    FinishReason,
    Message,
    Noun,
    Sampling,
    Usage,
)
from .errors import EngineError, InvalidField, OpenLLMError, RunnerLost, from_frame
from .frames import (
    Delta,
    Embeddings,
    End,
    Failure,
    Frame,
    Info,
    TokenScore,
)
from .port import Busy, Gone, Lost

Kind = TypeVar("Kind", bound=Noun)


@dataclass(frozen=True, slots=True)
class Choice:
    """One whole text; `scores` is filled when log-probabilities were asked for."""

    text: str
    finish_reason: FinishReason
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """The assistant's turn. `configuration` holds the values the model used."""

    message: str
    usage: Usage
    configuration: dict[str, Any]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class CompletionAnswer:
    """Choice `p * n + i` is continuation `i` of prompt `p`."""

    choices: tuple[Choice, ...]
    usage: Usage
    configuration: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EmbedAnswer:
    """One L2-normalised vector of length `dimension` for each input, in order."""

    embeddings: tuple[tuple[float, ...], ...]
    model: str
    dimension: int
    pooling: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that a stream's frames said, put together."""

    choices: tuple[Choice, ...] = ()
    embeddings: Embeddings | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    timings: dict[str, float] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)


class _Texts:
    """The choices as they grow; a choice starts at its first delta."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}
        self._scores: dict[int, list[TokenScore]] = {}
        self._reasons: dict[int, FinishReason] = {}

    def add(self, delta: Delta) -> None:
        self._texts.setdefault(delta.index, []).append(delta.text)
        self._scores.setdefault(delta.index, []).extend(delta.scores)
        if delta.reason is not None:
            self._reasons[delta.index] = delta.reason

    def choices(self) -> tuple[Choice, ...]:
        return tuple(
            Choice(
                text="".join(self._texts[index]),
                finish_reason=self._reasons.get(index, "stop"),
                scores=tuple(self._scores[index]),
            )
            for index in sorted(self._texts)
        )


async def gather(frames: AsyncIterable[Frame]) -> Gathered:
    """Reads a stream to its end. Raises the error that a failure frame describes.

    The caller closes the stream, as always.
    """
    texts = _Texts()
    embeddings: Embeddings | None = None
    facts: dict[str, Any] = {}
    end: End | None = None
    async for frame in frames:
        match frame:
            case Delta():
                texts.add(frame)
            case Embeddings():
                embeddings = frame
            case Info():
                facts = frame.facts
            case End():
                end = frame
            case Failure():
                raise from_frame(frame.error)
            case _:
                pass
    if end is None:
        return Gathered(texts.choices(), embeddings, facts)
    return Gathered(texts.choices(), embeddings, facts, end.usage, end.timings, end.configuration)


def chat_answer(gathered: Gathered) -> ChatAnswer:
    (choice,) = gathered.choices or (Choice("", "stop"),)
    return ChatAnswer(choice.text, gathered.usage, gathered.configuration, choice.finish_reason)


def completion_answer(gathered: Gathered) -> CompletionAnswer:
    return CompletionAnswer(gathered.choices, gathered.usage, gathered.configuration)


def embed_answer(gathered: Gathered) -> EmbedAnswer:
    vectors = gathered.embeddings
    if vectors is None:
        raise EngineError("the model's process answered an embed call without vectors")
    return EmbedAnswer(
        vectors.vectors, vectors.model, vectors.dimension, vectors.pooling, gathered.usage
    )


def new_id() -> str:
    """A request id: 96 random bits, so two never meet."""
    return secrets.token_hex(12)


def chat_request(
    messages: str | Sequence[Message | Mapping[str, Any]], sampling: Mapping[str, Any]
) -> ChatRequest:
    """A chat from one user's text, or from turns as objects or mappings."""
    if isinstance(messages, str):
        turns = [Message(role="user", content=messages)]
    else:
        turns = [
            turn if isinstance(turn, Message) else _valid(Message, f"messages.{place}.", **turn)
            for place, turn in enumerate(messages)
        ]
    return _valid(ChatRequest, "", messages=tuple(turns), sampling=sampling_of(sampling))


def completion_request(
    prompt: str | Sequence[str], sampling: Mapping[str, Any], *, n: int
) -> CompletionRequest:
    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    return _valid(CompletionRequest, "", prompts=prompts, n=n, sampling=sampling_of(sampling))


def embed_request(inputs: str | Sequence[str]) -> EmbedRequest:
    texts = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    return _valid(EmbedRequest, "", inputs=texts)


def sampling_of(keywords: Mapping[str, Any]) -> Sampling:
    """Sampling values from keywords; an unknown one is refused with the nearest legal name."""
    for name in keywords:
        if name not in SAMPLING_FIELDS:
            near = difflib.get_close_matches(name, SAMPLING_FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(SAMPLING_FIELDS)}"
            raise InvalidField(f"no sampling value is called {name}; {hint}", param=name)
    values = dict(keywords)
    stop = values.get("stop_sequence")
    if isinstance(stop, str):
        values["stop_sequence"] = (stop,)
    elif isinstance(stop, list):
        values["stop_sequence"] = tuple(stop)
    return _valid(Sampling, "", **values)


def as_error(raised: Exception) -> OpenLLMError:
    """What a typed call raises for a port's Busy, Gone or Lost."""
    match raised:
        case OpenLLMError():
            return raised
        case Busy():
            return RunnerLost(
                "the model's process is being restarted; try again later",
                retry_after=raised.retry_after,
            )
        case Lost():
            return RunnerLost(f"the model's process was lost: {raised}; try again", retry_after=1.0)
        case Gone():
            return RunnerLost(f"no such model behind this runner: {raised}")
        case _:
            return EngineError(str(raised))


def _valid(kind: type[Kind], prefix: str, **values: Any) -> Kind:
    try:
        return kind(**values)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        param = prefix + ".".join(str(part) for part in first["loc"])
        raise InvalidField(f"{param}: {first['msg']}", param=param) from None
