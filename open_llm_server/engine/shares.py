"""How the prompts that are being read share a step. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def shares(missing: Sequence[int], budget: int) -> dict[int, int]:
    """Tokens of each prompt that are evaluated now: at most `budget` of all together.

    `missing` are the tokens that each still needs, oldest prompt first; the result goes by place
    in it. The oldest prompt gets half, the shortest of the others the rest: a long prompt moves
    on, and nobody waits behind it for a short one.
    """
    if not missing or budget <= 0:
        return {}
    first = min(missing[0], budget if len(missing) == 1 else max(1, budget // 2))
    budget -= first
    taken = {0: first}
    for place in sorted(range(1, len(missing)), key=missing.__getitem__):
        if budget <= 0:
            break
        taken[place] = min(missing[place], budget)
        budget -= taken[place]
    taken[0] = min(missing[0], first + budget)
    return taken
