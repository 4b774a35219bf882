"""JSON on its way out: compact, readable in every script, never NaN."""

from __future__ import annotations

import json
from typing import Any

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def text(value: Any) -> str:
    return _ENCODER.encode(value)


def dump(value: Any) -> bytes:
    return utf8(_ENCODER.encode(value))


def utf8(written: str) -> bytes:
    """Text of a model holds no lone surrogates; if some did, one "?" is better than no answer."""
    return written.encode("utf-8", "replace")
