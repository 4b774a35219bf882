"""The native routes' JSON: /chat, /chat-sse, /complete, /embed.

Owns their bodies, answers and events. Knows no HTTP and no port.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, Field

from .. import core
from ..errors import InvalidField, NotSupported
from ..frames import Delta, End
from ..gather import Gathered, embed_answer
from .ask import DONE, Ask, Signature, renamer
from .collect import Collector
from .fields import Inputs, Messages, Stop, listed, messages, stops
from .json_text import text
from .wire import Wire, ignored_names, noun, parse

Model = Annotated[
    str | None, Field(description="Which model answers; without it, the first one started.")
]


class Generation(Wire):
    """Values that a request may set; those it leaves out are the model's configured ones."""

    model: Model = None
    temperature: core.Temperature | None = None
    top_k: core.TopK | None = None
    top_p: core.TopP | None = None
    min_p: core.MinP | None = None
    max_tokens: core.MaxTokens | None = None
    stop_sequence: Stop | None = Field(
        default=None, description="Stop before any of these texts: one text, or a list."
    )
    stop: Stop | None = Field(default=None, description="Another name for stop_sequence.")
    frequency_penalty: core.FrequencyPenalty | None = None
    presence_penalty: core.PresencePenalty | None = None
    repetition_penalty: core.RepetitionPenalty | None = None
    seed: core.Seed | None = None
    num_beams: core.NumBeams | None = None
    stream: bool | None = Field(default=None, description="Answer with server-sent events.")


class ChatBody(Generation):
    """A prompt, or a conversation: exactly one of the two."""

    prompt: str | None = None
    messages: Messages | None = None


class CompleteBody(Generation):
    """A text to continue, `n` times."""

    prompt: str
    n: Annotated[int, Field(ge=1, le=core.MAX_CHOICES)] | None = None


class EmbedBody(Wire):
    """Texts (or lists of token ids) to turn into vectors."""

    model: Model = None
    input: Inputs


class UsageAnswer(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class TextAnswer(BaseModel):
    id: str
    model: str
    configuration: dict[str, Any]
    usage: UsageAnswer


class ChatAnswer(TextAnswer):
    message: str
    finish_reason: core.FinishReason


class CompleteAnswer(TextAnswer):
    choices: list[str]
    finish_reasons: list[core.FinishReason]


class EmbedAnswer(BaseModel):
    id: str
    model: str
    embeddings: list[list[float]]
    dimension: int
    pooling: str
    usage: UsageAnswer


def read_chat(body: bytes) -> Ask:
    return _chat(parse(ChatBody, body), stream=None)


def read_chat_sse(body: bytes) -> Ask:
    """The same; always a stream."""
    return _chat(parse(ChatBody, body), stream=True)


def read_complete(body: bytes) -> Ask:
    sent = parse(CompleteBody, body)
    request = noun(
        core.CompletionRequest, prompts=(sent.prompt,), sampling=_sampling(sent), n=sent.n or 1
    )
    return _ask(sent, request, _complete_answer, rename=renamer("prompt", "prompt", single=True))


def read_embed(body: bytes) -> Ask:
    sent = parse(EmbedBody, body)
    inputs, single = listed(sent.input)
    request = noun(core.EmbedRequest, inputs=inputs)
    return Ask(
        request=request,
        model=sent.model,
        whole=_embed_answer,
        ignored=tuple(ignored_names(sent)),
        rename=renamer("input", "input", single=single),
    )


def _chat(sent: ChatBody, *, stream: bool | None) -> Ask:
    if (sent.prompt is None) == (sent.messages is None):
        raise InvalidField(
            "send 'prompt' (one text) or 'messages' (a conversation), one of the two",
            param="prompt" if sent.messages is None else "messages",
        )
    if (sent.model_extra or {}).get("n") not in (None, 1):
        raise NotSupported(
            "n: /chat gives one answer; /complete and /v1/chat/completions give several",
            param="n",
        )
    if sent.messages is not None:
        turns = messages(sent.messages)
    else:
        turns = (core.Message(role="user", content=sent.prompt or ""),)
    request = noun(core.ChatRequest, messages=turns, sampling=_sampling(sent))
    rename = renamer("messages", "messages" if sent.messages is not None else "prompt")
    return _ask(sent, request, _chat_answer, stream=stream, rename=rename, but=("n",))


def _ask(
    sent: Generation,
    request: core.ChatRequest | core.CompletionRequest,
    answer: Callable[[Ask, Gathered, Signature], Any],
    *,
    rename: Callable[[str], str],
    stream: bool | None = None,
    but: tuple[str, ...] = (),
) -> Ask:
    ask: Ask

    def whole(gathered: Gathered, signature: Signature) -> Any:
        return answer(ask, gathered, signature)

    def writer(signature: Signature) -> Events:
        return Events(lambda gathered: whole(gathered, signature), many=ask_many)

    ask_many = isinstance(request, core.CompletionRequest)
    ask = Ask(
        request=request,
        model=sent.model,
        whole=whole,
        writer=writer if sent.stream or stream else None,
        ignored=tuple(ignored_names(sent, but=but)),
        rename=rename,
    )
    return ask


def _sampling(sent: Generation) -> core.Sampling:
    both = {stops(sent.stop), stops(sent.stop_sequence)} - {None}
    if len(both) > 1:
        raise InvalidField("stop and stop_sequence are one field; send one of them", param="stop")
    values = {name: getattr(sent, name) for name in core.SAMPLING_FIELDS}
    return noun(core.Sampling, **values | {"stop_sequence": next(iter(both), None)})


def _usage(usage: core.Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
    }


def _tail(gathered: Gathered, signature: Signature) -> dict[str, Any]:
    return {
        "configuration": gathered.configuration,
        "usage": _usage(gathered.usage),
        "model": signature.model,
        "id": signature.id,
    }


def _chat_answer(ask: Ask, gathered: Gathered, signature: Signature) -> dict[str, Any]:
    (choice,) = ask.choices(gathered)
    head = {"message": choice.text, "finish_reason": choice.finish_reason}
    return head | _tail(gathered, signature)


def _complete_answer(ask: Ask, gathered: Gathered, signature: Signature) -> dict[str, Any]:
    choices = ask.choices(gathered)
    return {
        "choices": [choice.text for choice in choices],
        "finish_reasons": [choice.finish_reason for choice in choices],
        **_tail(gathered, signature),
    }


def _embed_answer(gathered: Gathered, signature: Signature) -> dict[str, Any]:
    answer = embed_answer(gathered)
    return {
        "embeddings": answer.embeddings,
        "model": signature.model,
        "dimension": answer.dimension,
        "pooling": answer.pooling,
        "usage": _usage(answer.usage),
        "id": signature.id,
    }


class Events:
    """`{"delta": "..."}` for each piece (with `index` where there may be several texts), then
    the whole answer in the shape of the non-stream route, then `[DONE]`."""

    def __init__(self, whole: Callable[[Gathered], Any], *, many: bool) -> None:
        self._whole = whole
        self._many = many
        self._collector = Collector()

    def opening(self) -> str:
        return ""

    def delta(self, delta: Delta) -> str:
        self._collector.add(delta)
        if not delta.text:
            return ""
        index = f',"index":{delta.index}' if self._many else ""
        return f'data: {{"delta":{text(delta.text)}{index}}}\n\n'

    def ending(self, end: End) -> str:
        answer = self._whole(self._collector.gathered(end))
        return f"data: {text(answer)}\n\n{DONE}"
