"""The beam searches that are under way, and the rows that each of them adds to a step.

A search's state moves on only once its logits are there; a step that is broken off or undone
leaves it where it was, and one whose result got lost with another row's error gives it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .base import Copy, Draw, Hypothesis, Limits, Row, RowError
from .torch_beams import BeamSearch
from .torch_cache import Rows


@dataclass(slots=True)
class _Beams:
    draw: Draw
    search: BeamSearch
    tokens: Sequence[int] = ()
    """To be evaluated next, one for each slot; none before the prompt was."""


class Searches:
    """For the engine's thread. Keyed by the first slot of each search."""

    def __init__(self, limits: Limits, rows: Rows) -> None:
        self._limits = limits
        self._rows = rows
        self._beams: dict[int, _Beams] = {}

    def expand(self, rows: Sequence[Row]) -> list[Row]:
        """Rows with tokens for the network: `rows`, in their order, each search as its beams."""
        expanded: list[Row] = []
        for row in rows:
            if row.search is None or row.tokens:
                expanded.append(row)
            elif not self._of(row).search.over:
                expanded += [
                    Row(slot, [token], self._rows.held[slot], draw=row.draw)
                    for slot, token in zip(row.search.slots, self._of(row).tokens, strict=True)
                ]
        return expanded

    def advance(
        self, rows: Sequence[Row], logits: Tensor, lines: Mapping[int, int]
    ) -> dict[int, list[Hypothesis]]:
        """Moves every search on; the hypotheses of those that are over, by first slot.

        `lines[slot]` is the line of `logits` that belongs to a slot. Raises RowError.
        """
        found: dict[int, list[Hypothesis]] = {}
        bad: int | None = None
        for row in rows:
            if row.search is None or row.draw is None:
                continue
            if row.tokens:
                self._begin(row)
            beams = self._of(row)
            if not beams.search.over:
                try:
                    self._advance(row, beams, logits, lines)
                except ArithmeticError:
                    bad = row.slot
            if beams.search.over:
                found[row.slot] = beams.search.best()
        if bad is not None:
            raise RowError(bad, "the model's output is not a number")
        return found

    def _of(self, row: Row) -> _Beams:
        beams = self._beams[row.slot]
        assert beams.draw is row.draw, "a search goes on in its own slots"
        return beams

    def _begin(self, row: Row) -> None:
        assert row.search and row.draw
        self._beams[row.slot] = _Beams(
            row.draw,
            BeamSearch(
                beams=len(row.search.slots),
                best=row.search.best,
                end_tokens=self._limits.end_tokens,
                max_tokens=row.search.max_tokens,
                vocabulary=self._limits.vocabulary,
                start=row.tokens[-1:],
                draw=row.draw,
            ),
        )

    def _advance(self, row: Row, beams: _Beams, logits: Tensor, lines: Mapping[int, int]) -> None:
        assert row.search
        slots = row.search.slots
        first = not beams.tokens
        wanted = [lines[slot] for slot in (slots[:1] if first else slots)]
        step = beams.search.advance(logits[wanted])
        if step is None:
            return
        beams.tokens = step.tokens
        if first:
            length = self._rows.held[row.slot]
            self._rows.copy([Copy(row.slot, slot, length) for slot in slots[1:]])
        else:
            self._rows.permute(slots, step.parents)
