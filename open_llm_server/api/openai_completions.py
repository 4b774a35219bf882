"""POST /v1/completions: bodies to requests, frames to answers and chunks.

Knows no HTTP and no port.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from .. import core
from ..errors import InvalidField, NotSupported
from ..frames import Delta, End, TokenScore
from ..gather import Gathered
from .ask import DONE, Ask, Signature, renamer
from .fields import Prompts, listed
from .json_text import text
from .openai import (
    REFUSED,
    Chunks,
    GeneratedAnswer,
    OpenAIBody,
    check_stream_options,
    head,
    refuse_unsupported,
    sampling,
    usage,
)
from .wire import ignored_names, noun, parse


class CompletionBody(OpenAIBody):
    """Texts (or token ids) to continue, each `n` times."""

    prompt: Prompts
    echo: bool | None = Field(
        default=None, description="Give the prompt back before its continuation."
    )
    logprobs: Annotated[int, Field(ge=0, le=core.MAX_TOP_LOGPROBS)] | None = None
    best_of: Annotated[int, Field(ge=1, le=core.MAX_CHOICES)] | None = Field(
        default=None, description="Only the same value as n."
    )


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: core.FinishReason


class CompletionAnswer(GeneratedAnswer):
    object: Literal["text_completion"]
    choices: list[CompletionChoice]


def read(body: bytes) -> Ask:
    sent = parse(CompletionBody, body)
    refuse_unsupported(sent)
    check_stream_options(sent)
    prompts, single = listed(sent.prompt)
    n = sent.n or 1
    if sent.best_of not in (None, n):
        raise NotSupported("best_of: only the same value as n is supported", param="best_of")
    if n * len(prompts) > core.MAX_CHOICES:
        raise InvalidField(
            f"n: {len(prompts)} prompts times {n} choices are more than {core.MAX_CHOICES} texts; "
            "send several requests",
            param="n",
        )
    request = noun(
        core.CompletionRequest,
        prompts=prompts,
        sampling=sampling(sent),
        n=n,
        logprobs=sent.logprobs,
        echo=bool(sent.echo),
    )
    include_usage = bool(sent.stream_options and sent.stream_options.include_usage)
    ask: Ask

    def whole(gathered: Gathered, signature: Signature) -> dict[str, Any]:
        return _answer(ask, gathered, signature)

    def writer(signature: Signature) -> CompletionChunks:
        return CompletionChunks(
            signature, scored=request.logprobs is not None, include_usage=include_usage
        )

    ask = Ask(
        request=request,
        model=sent.model,
        whole=whole,
        writer=writer if sent.stream else None,
        ignored=tuple(ignored_names(sent, but=REFUSED)),
        rename=renamer("prompt", "prompt", single=single),
    )
    return ask


def _answer(ask: Ask, gathered: Gathered, signature: Signature) -> dict[str, Any]:
    assert isinstance(ask.request, core.CompletionRequest)
    scored = ask.request.logprobs is not None
    choices = [
        {
            "index": index,
            "text": choice.text,
            "logprobs": Offsets().scores(choice.scores) if scored else None,
            "finish_reason": choice.finish_reason,
        }
        for index, choice in enumerate(ask.choices(gathered))
    ]
    shared = head("text_completion", "cmpl-", signature)
    return shared | {"choices": choices, "usage": usage(gathered.usage)}


class Offsets:
    """Where in a choice's text each token begins, in characters, over any number of pieces.

    A token that completes a character begins where that character does.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def scores(self, scores: Iterable[TokenScore]) -> dict[str, list[Any]]:
        shape: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for score in scores:
            shape["tokens"].append(spelled(score.raw))
            shape["token_logprobs"].append(score.logprob)
            shape["top_logprobs"].append(_top(score))
            shape["text_offset"].append(self._offset)
            self._offset += len(self._decoder.decode(score.raw))
        return shape


def spelled(raw: bytes) -> str:
    """A token as text; as OpenAI does, bytes that are no text are spelled out."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _top(score: TokenScore) -> dict[str, float] | None:
    """The alternatives and the chosen token itself; `None` where nothing predicted the token."""
    if score.logprob is None:
        return None
    found = {spelled(other.raw): other.logprob for other in score.top if other.logprob is not None}
    return found | {spelled(score.raw): score.logprob}


class CompletionChunks:
    """Text chunks, each choice's last one with its finish reason, usage if asked, `[DONE]`."""

    def __init__(self, signature: Signature, *, scored: bool, include_usage: bool) -> None:
        shared = head("text_completion", "cmpl-", signature)
        self._chunks = Chunks(shared, include_usage=include_usage)
        self._scored = scored
        self._offsets: dict[int, Offsets] = {}

    def opening(self) -> str:
        return ""

    def delta(self, delta: Delta) -> str:
        if not (delta.text or delta.scores or delta.reason):
            return ""
        logprobs = "null"
        if self._scored:
            offsets = self._offsets.setdefault(delta.index, Offsets())
            logprobs = text(offsets.scores(delta.scores))
        reason = f'"{delta.reason}"' if delta.reason else "null"
        return self._chunks.chunk(
            f'{{"index":{delta.index},"text":{text(delta.text)},"logprobs":{logprobs},'
            f'"finish_reason":{reason}}}'
        )

    def ending(self, end: End) -> str:
        return self._chunks.usage(end.usage) + DONE
