"""Field types that JSON formats share and core has not: values that come in several forms.

Bounds are core's. Knows no format.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, FailFast, Field, Tag, WithJsonSchema

from .. import core
from ..errors import InvalidField, NotSupported
from .wire import Wire

ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def form(value: Any) -> str | None:
    """Which of the forms below a value is meant to be."""
    if isinstance(value, str):
        return "text"
    if not isinstance(value, list | tuple):
        return None
    first = value[0] if value else ""
    if isinstance(first, list | tuple):
        return "token_lists"
    return "tokens" if type(first) in (int, float) else "texts"


def forms(what: str) -> Discriminator:
    return Discriminator(
        form, custom_error_type="form", custom_error_message=f"Input should be {what}"
    )


class UnionFailFast(FailFast):
    """A million wrong items are one error, not a million. (Unions need it hashable.)"""

    __hash__ = object.__hash__


_Tokens = Annotated[
    tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...],
    Field(min_length=1, max_length=1_000_000),
    UnionFailFast(),
]

Prompts = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[
        tuple[str, ...],
        Field(min_length=1, max_length=core.MAX_CHOICES),
        UnionFailFast(),
        Tag("texts"),
    ]
    | Annotated[_Tokens, Tag("tokens")]
    | Annotated[
        tuple[_Tokens, ...],
        Field(min_length=1, max_length=core.MAX_CHOICES),
        UnionFailFast(),
        Tag("token_lists"),
    ],
    forms("a text, a list of texts, a list of token ids, or a list of such lists"),
]
Inputs = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[
        tuple[str, ...],
        Field(min_length=1, max_length=core.MAX_INPUTS),
        UnionFailFast(),
        Tag("texts"),
    ]
    | Annotated[_Tokens, Tag("tokens")]
    | Annotated[
        tuple[_Tokens, ...],
        Field(min_length=1, max_length=core.MAX_INPUTS),
        UnionFailFast(),
        Tag("token_lists"),
    ],
    forms("a text, a list of texts, a list of token ids, or a list of such lists"),
]
Stop = Annotated[
    Annotated[core.StopText, Tag("text")]
    | Annotated[core.StopSequence, UnionFailFast(), Tag("texts")],
    forms("a text or a list of texts"),
]


class ContentPart(Wire):
    """A piece of a message's text. No part is ever fetched: others than text are refused."""

    model_config = ConfigDict(json_schema_extra={"required": ["type", "text"]})

    type: Annotated[str, WithJsonSchema({"const": "text", "type": "string"})]
    text: Annotated[str | None, WithJsonSchema({"type": "string"})] = None


Content = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[
        tuple[ContentPart, ...], Field(max_length=core.MAX_MESSAGES), UnionFailFast(), Tag("texts")
    ],
    forms("a text or a list of text parts"),
]


class ChatMessage(Wire):
    """One turn of a conversation; `developer` is another name for `system`."""

    role: Annotated[str, WithJsonSchema({"type": "string", "enum": list(ROLES)})]
    content: Content


Messages = Annotated[
    tuple[ChatMessage, ...], Field(min_length=1, max_length=core.MAX_MESSAGES), UnionFailFast()
]


def listed(value: Any) -> tuple[tuple[Any, ...], bool]:
    """A value of `Prompts` or `Inputs` as core's tuple, and whether it was sent as one item."""
    if isinstance(value, str) or isinstance(value[0], int):
        return (value,), True
    return tuple(value), False


def stops(value: Any) -> tuple[str, ...] | None:
    return (value,) if isinstance(value, str) else value


def messages(sent: tuple[ChatMessage, ...]) -> tuple[core.Message, ...]:
    """Core's messages. Raises InvalidField or NotSupported, naming the place."""
    return tuple(_message(message, f"messages.{place}") for place, message in enumerate(sent))


def _message(message: ChatMessage, place: str) -> core.Message:
    role = ROLES.get(message.role)
    if role is None:
        kind = NotSupported if message.role in ("tool", "function") else InvalidField
        raise kind(
            f"{place}.role: Input should be one of {', '.join(ROLES)}", param=f"{place}.role"
        )
    for name in ("tool_calls", "function_call"):
        if (message.model_extra or {}).get(name):
            raise NotSupported(
                f"{place}.{name}: models here call no tools", param=f"{place}.{name}"
            )
    return core.Message(role=role, content=_text(message.content, f"{place}.content"))


def _text(content: str | tuple[ContentPart, ...], place: str) -> str:
    if isinstance(content, str):
        return content
    for index, part in enumerate(content):
        if part.type != "text":
            raise NotSupported(
                f"{place}.{index}.type: only text parts are read here, and no URL is fetched",
                param=f"{place}.{index}.type",
            )
        if part.text is None:
            raise InvalidField(
                f"{place}.{index}.text: Field required", param=f"{place}.{index}.text"
            )
    return "".join(part.text or "" for part in content)
