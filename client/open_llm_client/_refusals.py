"""From what a server says of an error to the class of that name. Pure.

Whatever comes, it becomes an OpenLLMError with a text: what is said is not trusted to be of the
right shape, to be short, or to be printable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from . import errors

LONGEST_TEXT = 20_000
"""Characters of a message that are kept."""
BY_CODE = {error.code: error for error in errors.tree() if error.status is not None}
BY_STATUS: Mapping[int, type[errors.OpenLLMError]] = {
    401: errors.AuthenticationError,
    404: errors.RouteNotFound,
    405: errors.MethodNotAllowed,
    408: errors.BodyTimeout,
    413: errors.BodyTooLarge,
    415: errors.UnsupportedMediaType,
    429: errors.QueueFull,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
}
_KNOWN = ("message", "type", "param", "code", "request_id")


def described(
    error: Any,
    *,
    otherwise: type[errors.OpenLLMError],
    status: int | None = None,
    retry_after: float | None = None,
    may_repeat: bool = False,
    request_id: str | None = None,
) -> errors.OpenLLMError:
    """The error that the JSON value `error` describes, as far as it does.

    `otherwise` is its class when the code is unknown.
    """
    facts: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    code = plain(facts.get("code"))[:100]
    kind = BY_CODE.get(code, otherwise)
    param, named = facts.get("param"), facts.get("request_id")
    made = kind(
        plain(facts.get("message"))
        or f"the server reported {kind.code} without words; see its log",
        param=plain(param) or None,
        retry_after=retry_after,
        may_repeat=may_repeat,
        request_id=plain(named) or request_id,
        extra={name: value for name, value in facts.items() if name not in _KNOWN},
    )
    if code and code != kind.code:
        made.code = code
        made.status = kind.status if status is None else status
    return made


def class_of(status: int) -> type[errors.OpenLLMError]:
    """For a code that this version does not know."""
    if status in BY_STATUS:
        return BY_STATUS[status]
    return errors.RequestError if 400 <= status < 500 else errors.OpenLLMError


def plain(text: Any) -> str:
    """What can be printed of a text; empty for anything else."""
    if not isinstance(text, str):
        return ""
    kept = text[:LONGEST_TEXT]
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in kept)


def retry_after(header: Callable[[str], str | None]) -> float | None:
    """Seconds, from the headers that say so; `None` where they say nothing that makes sense."""
    milliseconds = _seconds(header("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = header("retry-after")
    seconds = _seconds(text)
    return seconds if seconds is not None or text is None else _until(text)


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _until(date: str) -> float | None:
    from datetime import datetime, timezone
    from email.utils import parsedate_to_datetime

    try:
        then = parsedate_to_datetime(date)
        if then.tzinfo is None:
            then = then.replace(tzinfo=timezone.utc)
        return max((then - datetime.now(timezone.utc)).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
