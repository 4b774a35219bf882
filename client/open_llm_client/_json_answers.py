"""From the native routes' JSON to answers. Pure; raises Misshapen for anything that is not one.

Fields that this version does not know are passed over: newer servers may send more.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar

from ._answers import (
    Answer,
    ChatAnswer,
    CompleteAnswer,
    Delta,
    EmbedAnswer,
    Health,
    Model,
    Usage,
)
from ._requests import Kind

T = TypeVar("T")
STATUSES = ("ready", "not_ready", "draining")
_NUMBERS = {int, float}


class Misshapen(ValueError):
    """The text says what is wrong with an answer."""


def parsed(text: str | bytes) -> Any:
    """Any JSON value."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except Misshapen:
        raise
    except (ValueError, RecursionError):
        raise Misshapen("it is not JSON") from None


def answer(kind: Kind, value: Any) -> Answer:
    """What the route for `kind` answered."""
    body = _checked(value, dict, "it")
    if kind == "chat":
        return _chat(body)
    if kind == "complete":
        return _complete(body)
    if kind == "embed":
        return _embed(body)
    if kind == "models":
        return [_model(item) for item in _get(body, "data", list)]
    return _health(body)


def delta(value: dict[str, Any]) -> Delta:
    """What an event with a `delta` says."""
    index = value.get("index", 0)
    if type(index) is not int or index < 0:
        raise Misshapen("the index of a delta is no number of a choice")
    return Delta(_get(value, "delta", str), index)


def _chat(body: dict[str, Any]) -> ChatAnswer:
    return ChatAnswer(
        message=_get(body, "message", str),
        finish_reason=_get(body, "finish_reason", str),
        **_tail(body),
    )


def _complete(body: dict[str, Any]) -> CompleteAnswer:
    choices = _texts(body, "choices")
    reasons = _texts(body, "finish_reasons")
    if not choices or len(choices) != len(reasons):
        raise Misshapen("its choices and finish_reasons do not go together")
    return CompleteAnswer(choices=choices, finish_reasons=reasons, **_tail(body))


def _tail(body: dict[str, Any]) -> dict[str, Any]:
    return {"configuration": _get(body, "configuration", dict), **_common(body)}


def _common(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "usage": _usage(_get(body, "usage", dict)),
        "model": _get(body, "model", str),
        "id": _get(body, "id", str),
    }


def _usage(body: dict[str, Any]) -> Usage:
    names = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens")
    return Usage(**{name: _get(body, name, int) for name in names})


def _embed(body: dict[str, Any]) -> EmbedAnswer:
    dimension = _get(body, "dimension", int)
    vectors = _get(body, "embeddings", list)
    for vector in vectors:
        if len(_checked(vector, list, "a vector")) != dimension:
            raise Misshapen("the length of a vector is not the dimension")
        if not set(map(type, vector)) <= _NUMBERS:
            raise Misshapen("a vector has something besides numbers")
    return EmbedAnswer(
        embeddings=[[float(number) for number in vector] for vector in vectors],
        dimension=dimension,
        pooling=_get(body, "pooling", str),
        **_common(body),
    )


def _model(value: Any) -> Model:
    body = _checked(value, dict, "a model")
    return Model(
        id=_get(body, "id", str),
        family=_get(body, "family", str) if body.get("family") is not None else "",
        status=_get(body, "status", str),
        aliases=_texts(body, "aliases"),
        context_length=_optional(body, "context_length"),
        capabilities=_texts(body, "capabilities"),
        embedding_dimension=_optional(body, "embedding_dimension"),
    )


def _health(body: dict[str, Any]) -> Health:
    models = _get(body, "models", dict)
    for state in models.values():
        _checked(state, str, "the state of a model")
    status = _get(body, "status", str)
    if status not in STATUSES:
        raise Misshapen(f"its status is none of {', '.join(STATUSES)}")
    return Health(status, models)


def _texts(body: dict[str, Any], name: str) -> list[str]:
    texts: list[str] = _get(body, name, list)
    for text in texts:
        _checked(text, str, f"an item of {name!r}")
    return texts


def _optional(body: dict[str, Any], name: str) -> int | None:
    return None if body.get(name) is None else _get(body, name, int)


def _get(body: dict[str, Any], name: str, kind: type[T]) -> T:
    if name not in body:
        raise Misshapen(f"it has no {name!r}")
    return _checked(body[name], kind, f"its {name!r}")


def _checked(value: Any, kind: type[T], what: str) -> T:
    # Not isinstance: JSON's true is no number.
    if type(value) is not kind:
        raise Misshapen(f"{what} is {type(value).__name__}, not {kind.__name__}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise Misshapen(f"it has {name}, which is not JSON")
