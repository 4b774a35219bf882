"""Which rows of a store change places so that those that work together lie side by side. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def exchanges(
    of: Sequence[int], held: Sequence[int], slots: Collection[int]
) -> list[tuple[int, int]]:
    """Pairs of slots whose rows to exchange, so that `slots` become neighbours.

    `of[slot]` is the row of a slot, `held[slot]` how many tokens it holds; as few tokens move as
    it takes.
    """
    taken = {of[slot] for slot in slots}
    if not taken or max(taken) - min(taken) + 1 == len(taken):
        return []
    holder = {row: slot for slot, row in enumerate(of)}

    def moved(start: int) -> int:
        window = range(start, start + len(taken))
        return sum(held[holder[place]] for place in taken.symmetric_difference(window))

    start = min(range(len(of) - len(taken) + 1), key=moved)
    window = set(range(start, start + len(taken)))
    pairs = zip(sorted(taken - window), sorted(window - taken), strict=True)
    return [(holder[outside], holder[inside]) for outside, inside in pairs]
