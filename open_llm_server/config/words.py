"""Near misses: what somebody may have meant by a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(word: str, legal: Iterable[str]) -> str:
    """A clause that names the nearest of `legal`, or all of them if there are few."""
    choices = sorted(set(legal))
    # letter case is often the only mistake, and never the difference between two names
    by_case = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), by_case, n=8, cutoff=0.6)
    if near:
        # a word that was cut short has more edits to go than one that was misspelt
        nearest = min(
            near, key=lambda other: (not other.startswith(word.lower()), edits(word.lower(), other))
        )
        return f"; did you mean {by_case[nearest]!r}?"
    if len(choices) <= 20:
        return f"; there are: {', '.join(choices) or 'none'}"
    return ""


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
