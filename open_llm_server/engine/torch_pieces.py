"""The bytes that each token of a tokenizer stands for. Pure: content of tokenizer.json in.

Decoders of the library give text, with half a character as `\\ufffd`; a stream needs the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_letters() -> dict[str, int]:
    """Which byte a letter of a byte-level vocabulary stands for (the table of GPT-2): printable
    bytes of Latin-1 for themselves, the others in order from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_LETTERS = _byte_letters()


class Pieces:
    """See the module's docstring."""

    def __init__(
        self,
        definition: dict[str, Any],
        spelling: Callable[[int], str | None],
        *,
        hidden: frozenset[int],
    ) -> None:
        """`spelling`: how the vocabulary writes a token; `hidden`: tokens that add nothing."""
        self._spelling = spelling
        self._hidden = hidden
        self._literal: dict[int, bytes] = {
            entry["id"]: entry["content"].encode() for entry in definition["added_tokens"]
        }
        self._bytes_of = _rule(definition)

    def get(self, token: int) -> bytes:
        """Empty for hidden tokens and those that are not there."""
        if token in self._hidden:
            return b""
        if token in self._literal:  # added tokens stand for what they spell, in every scheme
            return self._literal[token]
        text = self._spelling(token)
        return b"" if text is None else self._bytes_of(text)


def _rule(definition: dict[str, Any]) -> Callable[[str], bytes]:
    """How the tokenizer's decoder reads one token."""
    steps = list(_flat(definition.get("decoder")))
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        return _byte_level
    if "WordPiece" in kinds:
        mark = next(step for step in steps if step["type"] == "WordPiece")["prefix"]
        return lambda text: _word_piece(text, mark)
    replaced = [pair for step in steps if (pair := _replacement(step))]
    fallback = "ByteFallback" in kinds or bool(definition["model"].get("byte_fallback"))

    def spelled(text: str) -> bytes:
        if fallback and (byte := _BYTE.fullmatch(text)):
            return bytes([int(byte.group(1), 16)])
        for old, new in replaced:
            text = text.replace(old, new)
        return text.encode()

    return spelled


def _byte_level(text: str) -> bytes:
    try:
        return bytes([_LETTERS[letter] for letter in text])
    except KeyError:  # not of this scheme, so it is its own spelling; the library does the same
        return text.encode()


def _word_piece(text: str, mark: str) -> bytes:
    return text[len(mark) :].encode() if text.startswith(mark) else f" {text}".encode()


def _flat(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _flat(step)
    else:
        yield decoder


def _replacement(step: dict[str, Any]) -> tuple[str, str] | None:
    if step["type"] == "Metaspace":
        return step["replacement"], " "
    if step["type"] == "Replace" and "String" in step["pattern"]:
        return step["pattern"]["String"], step["content"]
    return None
