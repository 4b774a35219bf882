"""What travels between the API and a model's process. Pure: bytes and values, no I/O.

A call goes in as one JSON text. Frames come back as ASCII JSON lines, because the stream under
them keeps no message borders: whoever reads must split at newlines, and a stream without a
final `end` or `error` frame was cut off.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from .core import (
    ChatRequest,
    CompletionRequest,
    EmbedRequest,
    FinishReason,
    InfoRequest,
    Noun,
    Request,
    Usage,
)
from .errors import InvalidField

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""An answer of 2048 embeddings of 8192 numbers fits; a runaway peer does not."""


class Call(Noun):
    """One request on its way to a model."""

    op: Literal["chat", "complete", "embed", "info"]
    id: str
    caller: str = ""
    """Whose request it is. Prefixes are shared within one caller, never across."""
    deadline_s: float | None = None
    """Seconds that the caller will wait from now; `None`: as long as it takes."""
    request: ChatRequest | CompletionRequest | EmbedRequest | InfoRequest

    @classmethod
    def of(
        cls, request: Request, *, id: str, caller: str = "", deadline_s: float | None = None
    ) -> Call:
        return cls(
            op=_OPS[type(request)], id=id, caller=caller, deadline_s=deadline_s, request=request
        )


_OPS: dict[type[Request], Literal["chat", "complete", "embed", "info"]] = {
    ChatRequest: "chat",
    CompletionRequest: "complete",
    EmbedRequest: "embed",
    InfoRequest: "info",
}
_REQUESTS: dict[str, type[Request]] = {op: kind for kind, op in _OPS.items()}


def encode_call(call: Call) -> str:
    return call.model_dump_json(exclude_defaults=True)


def decode_call(text: str) -> Call:
    """Reads what `encode_call` wrote. The op says which request it is, not its shape.

    Raises InvalidField for anything else.
    """
    try:
        raw = json.loads(text)
        kind = _REQUESTS[raw["op"]]
        # Validated as JSON so that arrays become tuples even under strict typing.
        request = kind.model_validate_json(json.dumps(raw.pop("request", {})))
        return Call(request=request, **raw)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as misfit:
        raise InvalidField(
            "this is no call: send what encode_call writes, or use the runner's own methods, "
            "such as chat and complete",
            param="call",
        ) from misfit


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token and its log-probability (natural logarithm), with the best alternatives.

    `logprob` is `None` for a prompt's first token, which nothing predicts. `raw` holds the
    token's bytes, which need not be whole characters.
    """

    id: int
    raw: bytes
    logprob: float | None
    top: tuple[TokenScore, ...] = ()

    @property
    def text(self) -> str:
        return self.raw.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Queued:
    """Waiting for a slot. `position` 1 is next; `eta_s` is `None` until something was measured."""

    position: int
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Alive:
    """Nothing to say yet, still at work."""


@dataclass(frozen=True, slots=True)
class Start:
    """The request was accepted and its prompts were counted."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """More text of choice `index`. With `reason` it is that choice's last."""

    index: int
    text: str
    tokens: int = 0
    """How many new tokens this text stands for."""
    scores: tuple[TokenScore, ...] = ()
    reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The whole answer is out."""

    usage: Usage
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds: `queued_s`, `prompt_s`, `generate_s`."""
    configuration: dict[str, Any] = field(default_factory=dict)
    """The values that were used, defaults filled in."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors in the order of the inputs, each of length `dimension`, L2-normalised."""

    vectors: tuple[tuple[float, ...], ...]
    dimension: int
    pooling: str
    model: str


@dataclass(frozen=True, slots=True)
class Info:
    """What a runner says of itself: `ready`, `model`, `limits`, `queue`, counters."""

    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """The stream's last frame when it did not end well; `errors.from_frame` reads it."""

    error: dict[str, Any]


Frame = Queued | Alive | Start | Delta | End | Embeddings | Info | Failure
FINAL = (End, Failure)


class BrokenFrame(ValueError):
    """What arrived is not a frame."""


def encode(frame: Frame) -> str:
    """One ASCII line, newline included."""
    return json.dumps(_dump(frame), separators=(",", ":"), allow_nan=False) + "\n"


class FrameDecoder:
    """Joins chunks that were cut anywhere back into frames."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._size = 0

    def push(self, chunk: bytes) -> Iterator[Frame]:
        head, newline, tail = chunk.rpartition(b"\n")
        # Parts of a long frame are joined once, when it is complete.
        lines = b"".join((*self._rest, head)).split(b"\n") if newline else []
        if newline:
            self._rest.clear()
            self._size = 0
        self._rest.append(tail)
        self._size += len(tail)
        if self._size > MAX_FRAME_BYTES:
            raise BrokenFrame(f"a frame is longer than {MAX_FRAME_BYTES} bytes")
        return (_load(line) for line in lines if line)


def _dump(frame: Frame) -> dict[str, Any]:
    kind, body = _DUMPERS[type(frame)]
    return {kind: body(frame)}


def _dump_delta(frame: Delta) -> dict[str, Any]:
    body: dict[str, Any] = {"index": frame.index, "text": frame.text}
    if frame.tokens:
        body["tokens"] = frame.tokens
    if frame.scores:
        body["logprobs"] = [_dump_score(score) for score in frame.scores]
    if frame.reason:
        body["reason"] = frame.reason
    return body


def _dump_end(frame: End) -> dict[str, Any]:
    return {
        "usage": frame.usage.model_dump(),
        "timings": frame.timings,
        "configuration": frame.configuration,
    }


def _dump_embeddings(frame: Embeddings) -> dict[str, Any]:
    return {
        "vectors": frame.vectors,
        "dimension": frame.dimension,
        "pooling": frame.pooling,
        "model": frame.model,
    }


def _load(line: bytes) -> Frame:
    try:
        ((kind, body),) = json.loads(line).items()
        return _LOADERS[kind](body)
    except (ValueError, KeyError, TypeError, AttributeError) as broken:
        raise BrokenFrame(f"not a frame: {line[:200]!r}") from broken


def _load_delta(body: dict[str, Any]) -> Delta:
    return Delta(
        index=body["index"],
        text=body["text"],
        tokens=body.get("tokens", 0),
        scores=tuple(_load_score(score) for score in body.get("logprobs", ())),
        reason=body.get("reason"),
    )


def _dump_score(score: TokenScore) -> list[Any]:
    head: list[Any] = [score.id, score.raw.hex(), score.logprob]
    return [*head, [_dump_score(other) for other in score.top]] if score.top else head


def _load_score(body: list[Any]) -> TokenScore:
    others: Iterable[list[Any]] = body[3] if len(body) > 3 else ()
    return TokenScore(
        id=body[0],
        raw=bytes.fromhex(body[1]),
        logprob=body[2],
        top=tuple(_load_score(other) for other in others),
    )


_DUMPERS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    Delta: ("delta", _dump_delta),
    Alive: ("alive", lambda frame: {}),
    Queued: ("queued", lambda frame: {"position": frame.position, "eta_s": frame.eta_s}),
    Start: ("start", lambda frame: {"prompt_tokens": frame.prompt_tokens}),
    End: ("end", _dump_end),
    Embeddings: ("embeddings", _dump_embeddings),
    Info: ("info", lambda frame: frame.facts),
    Failure: ("error", lambda frame: frame.error),
}
_LOADERS: dict[str, Callable[[Any], Frame]] = {
    "delta": _load_delta,
    "alive": lambda body: Alive(),
    "queued": lambda body: Queued(body["position"], body["eta_s"]),
    "start": lambda body: Start(body["prompt_tokens"]),
    "end": lambda body: End(Usage(**body["usage"]), body["timings"], body["configuration"]),
    "embeddings": lambda body: Embeddings(
        vectors=tuple(tuple(vector) for vector in body["vectors"]),
        dimension=body["dimension"],
        pooling=body["pooling"],
        model=body["model"],
    ),
    "info": lambda body: Info(body),
    "error": lambda body: Failure(body),
}
