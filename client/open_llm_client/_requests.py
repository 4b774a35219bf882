"""From a call's arguments to one plain request. Pure: knows no transport.

Refuses only what cannot be sent at all, such as wrong types; bounds are the server's to check, so
that an error is the same through every door.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

from .errors import InvalidField

if TYPE_CHECKING:
    from typing_extensions import TypedDict

    class Generation(TypedDict, total=False):
        """How tokens are chosen; what is left out is as the model is configured."""

        temperature: float | None
        top_k: int | None
        top_p: float | None
        min_p: float | None
        max_tokens: int | None
        stop_sequence: str | Sequence[str] | None
        frequency_penalty: float | None
        presence_penalty: float | None
        repetition_penalty: float | None
        seed: int | None
        num_beams: int | None


Kind = Literal["chat", "complete", "embed", "models", "health"]
Messages = Iterable[Mapping[str, str]]
Input = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]

FLOATS = (
    *("temperature", "top_p", "min_p"),
    *("frequency_penalty", "presence_penalty", "repetition_penalty"),
)
INTS = ("top_k", "max_tokens", "seed", "num_beams")
SAMPLING = (*FLOATS, *INTS, "stop_sequence")
_OPTIONS = ("timeout", "request_id", "stream")
_WORDS = {
    "chat": ("prompt", "messages", "model", *_OPTIONS),
    "complete": ("prompt", "n", "model", *_OPTIONS),
    "conversation": ("system", "model"),
    "say": ("text", *_OPTIONS),
}
"""Keywords of each call besides those of SAMPLING."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(frozen=True)
class Request:
    """`fields` are those of the native routes' bodies, as JSON values."""

    kind: Kind
    fields: Mapping[str, Any]
    stream: bool = False


def chat(
    prompt: str | None,
    messages: Messages | None,
    model: str | None,
    generation: Mapping[str, Any],
    *,
    stream: bool,
) -> Request:
    """Raises TypeError, or InvalidField; so do all that follow."""
    fields = _named(model) | sampling(generation, "chat")
    if prompt is not None:
        fields["prompt"] = _text(prompt, "prompt")
    if messages is not None:
        fields["messages"] = _messages(messages)
    return Request("chat", fields, stream)


def complete(
    prompt: str, n: int | None, model: str | None, generation: Mapping[str, Any], *, stream: bool
) -> Request:
    fields = {"prompt": _text(prompt, "prompt")} | _named(model) | sampling(generation, "complete")
    if n is not None:
        fields["n"] = _int(n, "n")
    return Request("complete", fields, stream)


def embed(input: Input, model: str | None) -> Request:
    return Request("embed", _named(model) | {"input": _input(input)})


def sampling(generation: Mapping[str, Any], call: str) -> dict[str, Any]:
    """The values that were given, each in its type."""
    values: dict[str, Any] = {}
    for name, value in generation.items():
        if name not in SAMPLING:
            raise TypeError(_unknown(name, call))
        if value is None:
            continue
        if name in FLOATS:
            values[name] = _float(value, name)
        elif name in INTS:
            values[name] = _int(value, name)
        else:
            values[name] = _texts([value] if isinstance(value, str) else value, name)
    return values


def checked_request_id(request_id: str | None) -> str | None:
    """Raises TypeError, or ValueError for what the server would not take over."""
    if request_id is not None and not isinstance(request_id, str):
        raise TypeError(f"request_id: want a text, not {_kind(request_id)}")
    if request_id is not None and not _REQUEST_ID.fullmatch(request_id):
        raise ValueError("request_id: want 1 to 128 letters, digits or . _ : / + = @ -")
    return request_id


def checked_model(model: str | None) -> str | None:
    """Raises TypeError, or InvalidField."""
    return None if model is None else _text(model, "model")


def _unknown(name: str, call: str) -> str:
    from difflib import get_close_matches

    others = [f"{other}()" for other, words in _WORDS.items() if name in words]
    if others:
        return f"{call}() has no keyword {name!r}; {' and '.join(others)} take it"
    words = [*_WORDS[call], *SAMPLING]
    near = [word for word in words if word.startswith(name)] or get_close_matches(name, words, n=1)
    meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SAMPLING)}"
    return f"{call}() has no keyword {name!r}: {meant}"


def _named(model: str | None) -> dict[str, Any]:
    return {} if model is None else {"model": checked_model(model)}


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{where}: want a text, not {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidField(
            f"{where}: character {error.start} is half of one (a lone surrogate), which no "
            "encoding can carry; read the text with errors='replace'",
            param=where,
        ) from None
    return str(value)


def _texts(values: Any, where: str) -> list[str]:
    if not isinstance(values, Iterable) or isinstance(values, bytes | Mapping):
        raise TypeError(f"{where}: want a text or a list of texts, not {_kind(values)}")
    return [_text(value, f"{where}.{place}") for place, value in enumerate(values)]


def _float(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{where}: want a number, not {_kind(value)}")
    try:
        return float(value)
    except OverflowError:
        raise InvalidField(f"{where}: the number is too large to be sent", param=where) from None


def _int(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{where}: want a whole number, not {_kind(value)}")
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise InvalidField(f"{where}: want a number that fits into 64 bits", param=where)
    return number


def _messages(messages: Any) -> list[dict[str, str]]:
    if not isinstance(messages, Iterable) or isinstance(messages, str | bytes | Mapping):
        raise TypeError(
            'messages: want a list such as [{"role": "user", "content": "Hello"}], not '
            f"{_kind(messages)}"
        )
    turns = [_message(message, f"messages.{place}") for place, message in enumerate(messages)]
    if not turns:
        raise InvalidField("messages: send at least one message", param="messages")
    return turns


def _message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise TypeError(f'{where}: want {{"role": "user", "content": "..."}} and no other keys')
    return {name: _text(message[name], f"{where}.{name}") for name in ("role", "content")}


def _input(input: Any) -> list[str | list[int]]:
    """A list in every case, so that places in errors do not depend on the form."""
    if isinstance(input, str):
        return [_text(input, "input.0")]
    if not isinstance(input, Iterable) or isinstance(input, bytes | Mapping):
        raise TypeError(
            f"input: want a text, a list of texts, or lists of token ids, not {_kind(input)}"
        )
    items = [*input]
    if items and isinstance(items[0], Integral):
        return [_ids(items, "input.0")]
    if len({isinstance(item, str) for item in items}) > 1:
        raise TypeError("input: texts and token ids do not mix; send one kind")
    return [
        _text(item, f"input.{place}") if isinstance(item, str) else _ids(item, f"input.{place}")
        for place, item in enumerate(items)
    ]


def _ids(items: Any, where: str) -> list[int]:
    if not isinstance(items, Iterable) or isinstance(items, bytes | Mapping):
        raise TypeError(f"{where}: want a text or a list of token ids, not {_kind(items)}")
    return [_int(item, f"{where}.{place}") for place, item in enumerate(items)]


def _kind(value: Any) -> str:
    return type(value).__name__
