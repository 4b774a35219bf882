"""Finds the spellings of control tokens in text. Pure.

Knows which texts are control tokens and nothing else: not what they mean, nor who wrote what.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import groupby

LONGEST = 256
"""Characters of a spelling that is looked for. Real ones have 5 to 40; a longer one is a strange
vocabulary's own doing, and searching must stay cheap."""
NESTING = 24
"""Groups within groups that the regular expression may have: Python's compiler is recursive."""


class ControlTexts:
    """Thousands of spellings, searched for at once, in time linear in the text."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted({text for text in texts if 0 < len(text) <= LONGEST})
        self._backwards = sorted(text[::-1] for text in self._texts)
        self._longest = max(map(len, self._texts), default=0)
        self._initials = frozenset(text[0] for text in self._texts)
        self._finals = frozenset(text[-1] for text in self._texts)
        self._joined = "\0".join(self._texts)
        self._pattern = re.compile(_alternatives(self._texts)) if self._texts else None

    def first_in(self, text: str) -> str | None:
        """The first spelling in `text`; of several that begin there, the longest."""
        found = self._pattern.search(text) if self._pattern else None
        return found.group() if found else None

    def all_in(self, text: str) -> list[str]:
        """Every spelling in `text`, in order, without overlaps."""
        return self._pattern.findall(text) if self._pattern else []

    def may_join(self, text: str) -> bool:
        """Whether a spelling may arise from `text`, trimmed or not, together with other text
        before or after it. Not meant for spellings that `text` holds whole."""
        return any(
            self._ends_in_a_beginning(variant)
            or self._begins_with_an_end(variant)
            or (len(variant) < self._longest and variant in self._joined)
            for variant in {text, text.strip()}
            if variant
        )

    def touch(self, text: str, begin: int, end: int) -> bool:
        """Whether a spelling in `text` uses any of the characters from `begin` up to `end`."""
        if self._pattern is None or begin == end:
            return False
        position = max(0, begin - self._longest + 1)
        while found := self._pattern.search(text, position, end + self._longest):
            if found.start() >= end:
                return False
            if found.end() > begin:
                return True
            position = found.start() + 1
        return False

    def _ends_in_a_beginning(self, text: str) -> bool:
        tail = text[-self._longest :]
        return any(
            char in self._initials and _begins_one(self._texts, tail[index:])
            for index, char in enumerate(tail)
        )

    def _begins_with_an_end(self, text: str) -> bool:
        head = text[: self._longest][::-1]
        return any(
            char in self._finals and _begins_one(self._backwards, head[index:])
            for index, char in enumerate(head)
        )


def _begins_one(words: Sequence[str], beginning: str) -> bool:
    """Whether one of the sorted `words` begins so."""
    index = bisect_left(words, beginning)
    return index < len(words) and words[index].startswith(beginning)


def _alternatives(words: Sequence[str], depth: int = 0) -> str:
    """A pattern for sorted `words` (the empty one among them: optional) that looks at each
    character once and prefers the longest word."""
    if depth == NESTING:
        longest_first = sorted(words, key=len, reverse=True)
        return f"(?:{'|'.join(map(re.escape, longest_first))})"
    branches = []
    for _, group in groupby(filter(None, words), key=lambda word: word[0]):
        same = list(group)
        head = _common_beginning(same[0], same[-1])  # Sorted: so do all between them.
        rest = [word[len(head) :] for word in same]
        branches.append(re.escape(head) + (_alternatives(rest, depth + 1) if any(rest) else ""))
    return f"(?:{'|'.join(branches)})" + ("?" if "" in words else "")


def _common_beginning(one: str, other: str) -> str:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return one[:length]
