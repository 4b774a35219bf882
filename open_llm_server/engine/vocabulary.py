"""The half of an engine that answers from its vocabulary and its limits alone.

Serves every engine with weights; knows none of their libraries.
"""

from __future__ import annotations

from typing import Protocol

from .base import Limits


class Vocabulary(Protocol):
    """What text means to one model. See `Engine` for each of these."""

    @property
    def control_texts(self) -> frozenset[str]: ...

    @property
    def begin_text(self) -> str: ...

    @property
    def end_text(self) -> str: ...

    @property
    def chat_template(self) -> str | None: ...

    def tokenize(self, text: str, *, begin: bool, control: bool) -> list[int]: ...

    def piece(self, token: int) -> bytes: ...


class VocabularyEngine:
    """Base of an engine: facts and text, from any thread. See `Engine`."""

    def __init__(self, vocabulary: Vocabulary, limits: Limits) -> None:
        self._vocabulary = vocabulary
        self._limits = limits

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def control_texts(self) -> frozenset[str]:
        return self._vocabulary.control_texts

    @property
    def begin_text(self) -> str:
        return self._vocabulary.begin_text

    @property
    def end_text(self) -> str:
        return self._vocabulary.end_text

    @property
    def chat_template(self) -> str | None:
        return self._vocabulary.chat_template

    def tokenize(self, text: str, *, begin: bool, control: bool) -> list[int]:
        return self._vocabulary.tokenize(text, begin=begin, control=control)

    def piece(self, token: int) -> bytes:
        return self._vocabulary.piece(token)
