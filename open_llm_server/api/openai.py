"""What the OpenAI routes under /v1 have in common: fields, refusals, usage, events.

Knows no HTTP and no port.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from .. import core
from ..errors import InvalidField, NotSupported
from .ask import Signature
from .fields import Stop, stops
from .json_text import text
from .wire import Wire, noun


class StreamOptions(Wire):
    include_usage: bool | None = Field(
        default=None, description="End the stream with a chunk that holds the usage."
    )


class OpenAIBody(Wire):
    """Fields of both generating routes. `null` is the same as leaving a field out."""

    model: str | None = Field(
        default=None, description="Which model answers; without it, the first one started."
    )
    temperature: core.Temperature | None = None
    top_p: core.TopP | None = None
    top_k: core.TopK | None = None
    min_p: core.MinP | None = None
    repetition_penalty: core.RepetitionPenalty | None = None
    num_beams: core.NumBeams | None = None
    frequency_penalty: core.FrequencyPenalty | None = None
    presence_penalty: core.PresencePenalty | None = None
    max_tokens: core.MaxTokens | None = None
    seed: core.Seed | None = None
    stop: Stop | None = None
    n: Annotated[int, Field(ge=1, le=core.MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, description="Accepted; nothing is done with it.")


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class OpenAIUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class GeneratedAnswer(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: OpenAIUsage


Harmless = Callable[[Any], bool]


def _empty(value: Any) -> bool:
    return not value


def _plain_text(value: Any) -> bool:
    return not value or (isinstance(value, Mapping) and value.get("type") == "text")


REFUSED: dict[str, Harmless] = {
    "tools": _empty,
    "tool_choice": lambda value: value in (None, "none", "auto"),
    "functions": _empty,
    "function_call": lambda value: value in (None, "none", "auto"),
    "response_format": _plain_text,
    "logit_bias": _empty,
    "audio": _empty,
    "modalities": lambda value: not value or value == ["text"],
    "web_search_options": lambda value: value is None,
    "suffix": _empty,
    "grammar": _empty,
    "json_schema": _empty,
    "guided_json": _empty,
    "guided_regex": _empty,
    "guided_choice": _empty,
    "guided_grammar": _empty,
    "structured_outputs": _empty,
    "chat_template": _empty,
}
"""Fields that are not supported and that would change the answer's meaning if they were ignored;
each with the values that ask for nothing."""


def refuse_unsupported(body: Wire) -> None:
    for name, value in (body.model_extra or {}).items():
        harmless = REFUSED.get(name)
        if harmless is not None and not harmless(value):
            raise NotSupported(f"{name}: not supported by this server; leave it out", param=name)


def check_stream_options(body: OpenAIBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise InvalidField(
            "stream_options: only allowed with 'stream': true", param="stream_options"
        )


def sampling(body: OpenAIBody, **more: Any) -> core.Sampling:
    names = set(core.SAMPLING_FIELDS) & set(OpenAIBody.model_fields)
    values = {name: getattr(body, name) for name in names}
    return noun(core.Sampling, **values | {"stop_sequence": stops(body.stop)} | more)


def usage(counted: core.Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "total_tokens": counted.total_tokens,
        "prompt_tokens_details": {"cached_tokens": counted.cached_tokens},
    }


def head(
    kind: Literal["chat.completion", "chat.completion.chunk", "text_completion"],
    prefix: Literal["chatcmpl-", "cmpl-"],
    signature: Signature,
) -> dict[str, Any]:
    return {
        "id": prefix + signature.id,
        "object": kind,
        "created": signature.created,
        "model": signature.model,
        "system_fingerprint": signature.fingerprint,
    }


class Chunks:
    """Writes the chunks of one stream. What does not change from one to the next is written
    once: a chunk is two concatenations and the text."""

    def __init__(self, shared: dict[str, Any], *, include_usage: bool) -> None:
        # OpenAI: with include_usage, every chunk has the field, and only the last has a value.
        shared = shared | {"usage": None} if include_usage else shared
        self._head = "data: " + text(shared)[:-1] + ',"choices":['
        self._include_usage = include_usage
        self._shared = shared

    def chunk(self, choice: str) -> str:
        return f"{self._head}{choice}]}}\n\n"

    def usage(self, counted: core.Usage) -> str:
        if not self._include_usage:
            return ""
        return f"data: {text(self._shared | {'choices': [], 'usage': usage(counted)})}\n\n"
