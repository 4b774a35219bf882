"""Near misses: what somebody may have meant by a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(word: str, legal: Iterable[str]) -> str:
    """A clause that names the nearest of `legal`, or all of them if there are few."""
    choices = sorted(set(legal))
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if not near:  # letter case is the only mistake of many
        by_case = {choice.lower(): choice for choice in choices}
        found = difflib.get_close_matches(word.lower(), by_case, n=1, cutoff=0.6)
        near = [by_case[key] for key in found]
    if near:
        return f"; did you mean {near[0]!r}?"
    if len(choices) <= 20:
        return f"; there are: {', '.join(choices) or 'none'}"
    return ""
