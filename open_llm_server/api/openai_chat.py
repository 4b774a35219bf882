"""POST /v1/chat/completions: bodies to requests, frames to answers and chunks.

Knows no HTTP and no port.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from .. import core
from ..errors import InvalidField
from ..frames import Delta, End, TokenScore
from ..gather import Gathered
from .ask import DONE, Ask, Signature
from .fields import Messages, messages
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


class ChatCompletionBody(OpenAIBody):
    """A conversation that wants its next turn, `n` times."""

    messages: Messages
    max_completion_tokens: core.MaxTokens | None = Field(
        default=None, description="The newer name of max_tokens."
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=core.MAX_TOP_LOGPROBS)] | None = None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None


class ChatTurn(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    index: int
    message: ChatTurn
    logprobs: ChoiceLogprobs | None
    finish_reason: core.FinishReason


class ChatCompletionAnswer(GeneratedAnswer):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]


def read(body: bytes) -> Ask:
    sent = parse(ChatCompletionBody, body)
    refuse_unsupported(sent)
    check_stream_options(sent)
    request = noun(
        core.ChatRequest,
        messages=messages(sent.messages),
        sampling=sampling(sent, max_tokens=_max_tokens(sent)),
        n=sent.n or 1,
        logprobs=_logprobs(sent),
    )
    include_usage = bool(sent.stream_options and sent.stream_options.include_usage)
    ask: Ask

    def whole(gathered: Gathered, signature: Signature) -> dict[str, Any]:
        return _answer(ask, gathered, signature)

    def writer(signature: Signature) -> ChatChunks:
        return ChatChunks(
            signature, n=request.n, scored=request.logprobs is not None, include_usage=include_usage
        )

    ask = Ask(
        request=request,
        model=sent.model,
        whole=whole,
        writer=writer if sent.stream else None,
        ignored=tuple(ignored_names(sent, but=REFUSED)),
    )
    return ask


def _max_tokens(sent: ChatCompletionBody) -> int | None:
    both = {sent.max_tokens, sent.max_completion_tokens} - {None}
    if len(both) > 1:
        raise InvalidField(
            "max_tokens and max_completion_tokens are one field; send one of them",
            param="max_tokens",
        )
    return next(iter(both), None)


def _logprobs(sent: ChatCompletionBody) -> int | None:
    if sent.top_logprobs is not None and not sent.logprobs:
        raise InvalidField("top_logprobs: only allowed with 'logprobs': true", param="top_logprobs")
    return (sent.top_logprobs or 0) if sent.logprobs else None


def _answer(ask: Ask, gathered: Gathered, signature: Signature) -> dict[str, Any]:
    assert isinstance(ask.request, core.ChatRequest)
    scored = ask.request.logprobs is not None
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": _scores(choice.scores) if scored else None,
            "finish_reason": choice.finish_reason,
        }
        for index, choice in enumerate(ask.choices(gathered))
    ]
    shared = head("chat.completion", "chatcmpl-", signature)
    return shared | {"choices": choices, "usage": usage(gathered.usage)}


def _scores(scores: tuple[TokenScore, ...]) -> dict[str, Any]:
    content = [_score(score) | {"top_logprobs": list(map(_score, score.top))} for score in scores]
    return {"content": content, "refusal": None}


def _score(score: TokenScore) -> dict[str, Any]:
    return {"token": score.text, "logprob": score.logprob, "bytes": list(score.raw)}


class ChatChunks:
    """A role chunk for each choice, content chunks, finish chunks, usage if asked, `[DONE]`."""

    def __init__(self, signature: Signature, *, n: int, scored: bool, include_usage: bool) -> None:
        shared = head("chat.completion.chunk", "chatcmpl-", signature)
        self._chunks = Chunks(shared, include_usage=include_usage)
        self._n = n
        self._scored = scored

    def opening(self) -> str:
        return "".join(
            self._choice(index, '{"role":"assistant","content":"","refusal":null}')
            for index in range(self._n)
        )

    def delta(self, delta: Delta) -> str:
        events = ""
        if delta.text or delta.scores:
            logprobs = text(_scores(delta.scores)) if self._scored else "null"
            events = self._choice(
                delta.index, f'{{"content":{text(delta.text)}}}', logprobs=logprobs
            )
        if delta.reason is not None:
            events += self._choice(delta.index, "{}", reason=f'"{delta.reason}"')
        return events

    def ending(self, end: End) -> str:
        return self._chunks.usage(end.usage) + DONE

    def _choice(
        self, index: int, delta: str, *, logprobs: str = "null", reason: str = "null"
    ) -> str:
        return self._chunks.chunk(
            f'{{"index":{index},"delta":{delta},"logprobs":{logprobs},"finish_reason":{reason}}}'
        )
