"""From a body's bytes to a validated object, once, strictly; and from pydantic's words to ours.

Owns what all JSON formats have in common. Knows no format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .. import core
from ..errors import InvalidField, InvalidJSON, OpenLLMError


class Wire(BaseModel):
    """What a caller may send. Unknown fields are kept by name, to be reported as ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False)


Body = TypeVar("Body", bound=Wire)
Noun = TypeVar("Noun", bound=core.Noun)

MAX_PARAM = 200
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


def parse(kind: type[Body], body: bytes) -> Body:
    """Raises InvalidJSON, or InvalidField for the first field that does not fit."""
    try:
        parsed = kind.model_validate_json(body)
    except ValidationError as invalid:
        raise _explain(invalid, body) from None
    # pydantic's parser has bounded depth, numbers and encoding by now; it keeps the last of two
    # equal names, though, and NaN under names that it does not know.
    json.loads(body, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    return parsed


def noun(kind: type[Noun], **values: Any) -> Noun:
    """A core noun from parsed values; bounds that only core knows become InvalidField."""
    try:
        return kind(**values)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"])
        raise InvalidField(f"{param}: {first['msg']}", param=param[:MAX_PARAM]) from None


def ignored_names(body: Wire, *, but: Iterable[str] = ()) -> list[str]:
    """Names of fields that nobody reads, nested ones with their path, in order, once each."""
    sent = body.model_extra or {}
    names = dict.fromkeys(
        name for name, value in sent.items() if value is not None and name not in but
    )
    for field in type(body).model_fields:
        value = getattr(body, field)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Wire):
                names.update(dict.fromkeys(f"{field}.{name}" for name in ignored_names(part)))
    return list(names)


def ignored_header(names: Sequence[str]) -> bytes:
    """Value of `X-Ignored-Parameters`: whatever was sent, it is short and plain."""
    shown = [_UNSAFE.sub("?", name[:64]) for name in names[:32]]
    if len(names) > len(shown):
        shown.append("...")
    return ", ".join(shown).encode()


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        # `add` gives None: a name that is new is kept and passed over.
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        shown = _UNSAFE.sub("?", name[:64])
        raise InvalidJSON(f"the body says '{shown}' twice; say it once", param=shown)
    return made


def _no_constant(name: str) -> Any:
    raise InvalidJSON(f"{name} is not JSON; send a number")


def _explain(invalid: ValidationError, body: bytes) -> OpenLLMError:
    errors = invalid.errors(include_url=False, include_context=False, include_input=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        return InvalidJSON(
            f"the body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
        )
    raw = json.loads(body)
    if not isinstance(raw, dict):
        return InvalidJSON('the body must be a JSON object, such as {"prompt": "Hello"}')
    places = [_place(error["loc"], raw, missing=error["type"] == "missing") for error in errors]
    # A union reports each of its forms; the one that got furthest is what was meant.
    param = max(places, key=lambda place: place.count("."))
    words = dict.fromkeys(
        error["msg"].replace("Tuple", "List").replace(" after validation", "")
        for error, place in zip(errors, places, strict=True)
        if place == param
    )
    return InvalidField(f"{param}: {' or '.join(words)}", param=param)


def _place(loc: tuple[int | str, ...], raw: Any, *, missing: bool) -> str:
    """A path through the body as it was sent: pydantic's also names the forms it tried."""
    path: list[str] = []
    for step, part in enumerate(loc):
        if _holds(raw, part):
            raw = raw[part]
        elif not (missing and step == len(loc) - 1):
            continue
        path.append(str(part))
    return ".".join(path)[:MAX_PARAM]


def _holds(raw: Any, part: int | str) -> bool:
    if isinstance(raw, list):
        return isinstance(part, int) and part < len(raw)
    return isinstance(raw, Mapping) and part in raw
