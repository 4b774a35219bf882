"""Near misses: what somebody may have meant by a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable

_BORDERS = "_-./"
_SHORTEST = 3
"""A word that was cut short is a hint from so many letters on."""


def suggest(word: str, legal: Iterable[str]) -> str:
    """A clause that names the nearest of `legal`, or all of them if there are few; or none."""
    choices = sorted(set(legal))
    meant = nearest(word, choices)
    if meant is not None:
        return f"; did you mean {meant!r}?"
    if len(choices) <= 20:
        return f"; there are: {', '.join(choices) or 'none'}"
    return ""


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` is a misspelling or the beginning of; `None`: it is of none."""
    # letter case is often the only mistake, and never the difference between two names
    near = [choice for choice in choices if _is_near(word.lower(), choice.lower())]
    # a word that was cut short has more edits to go than one that was misspelt
    return min(
        near,
        key=lambda choice: (
            not choice.lower().startswith(word.lower()),
            edits(word.lower(), choice.lower()),
        ),
        default=None,
    )


def _is_near(word: str, choice: str) -> bool:
    if len(word) >= _SHORTEST and choice.startswith(word):
        return True
    # words that both begin with say nothing about the rest: tiny_port is not like tiny_lora
    same = 0
    for place, (one, other) in enumerate(zip(word, choice, strict=False), start=1):
        if one != other:
            break
        if one in _BORDERS:
            same = place
    longest = max(len(word), len(choice)) - same
    return edits(word[same:], choice[same:]) <= max(longest * 3 // 10, min(longest - 1, 1))


def edits(one: str, other: str) -> int:
    """Letters to insert, drop, replace, or swap with a neighbour, to turn `one` into `other`."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        row = [i]
        for j, wanted in enumerate(other, start=1):
            cost = min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]
