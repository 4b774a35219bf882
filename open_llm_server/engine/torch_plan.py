"""How a batch's rows are drawn: which way each takes, with which parameters, as tensors.

Owns the sorting of rows into groups of one way and the tensors that stay the same from step to step
while the same draws are stepped. Looks at no logits, and must not know how a token is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .base import Draw
from .torch_cuts import Cuts, keys
from .torch_penalties import Penalties, counts, repeats

COLDEST = 1e-5
"""Below this temperature the likeliest token is certain, and dividing by it could overflow."""
MARGIN = 24
"""Candidates beyond the k-th: room for equals of it, which coarse number formats make common."""
NUCLEUS = 256
"""Candidates for top-p alone; a row whose share of the mass does not fit in is sorted."""
LONGEST = 2048
"""Above this top-k, sorting costs less than picking candidates."""


class Way(IntEnum):
    """How a row's token is found."""

    GREEDY = 0
    WHOLE = 1
    """From all tokens in the order of their ids: nothing but min-p cuts."""
    LEADING = 2
    """From the likeliest few, as top-k asks."""
    NUCLEUS = 3
    """From the likeliest few, if the share that top-p asks for lies within."""
    SORTED = 4


def way_of(draw: Draw, vocabulary: int) -> Way:
    if draw.temperature < COLDEST:
        return Way.GREEDY
    if 0 < draw.top_k < vocabulary:
        return Way.LEADING if draw.top_k <= LONGEST else Way.SORTED
    return Way.NUCLEUS if draw.top_p < 1.0 else Way.WHOLE


class State:
    """A slot's past; its tokens, where penalties need them, are in the histories."""

    __slots__ = ("draw", "drawn")

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.drawn = 0


@dataclass(frozen=True)
class Group:
    """The rows that take one way, and what they are drawn with."""

    way: Way
    penalised: bool
    rows: list[int]
    """Their places in the batch."""
    take: slice | Tensor
    """Their places in the logits, or in the penalised copy of them."""
    states: list[State]
    keys: npt.NDArray[np.uint64]
    cuts: Cuts
    most: int
    """How many candidates to look at."""
    temperatures: Tensor | None
    """[g, 1] float32; `None` where all are 1."""
    floors: Tensor | None
    """[g, 1] float32: min-p where nothing else cuts; `None` where all are 0."""

    @classmethod
    def of(
        cls,
        kind: tuple[bool, Way],
        rows: list[int],
        take: slice | Tensor,
        states: list[State],
        vocabulary: int,
        device: torch.device,
    ) -> Group:
        penalised, way = kind
        draws = [state.draw for state in states]
        # Metal has no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64

        def column(values: list[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[:, None]

        heat = [draw.temperature for draw in draws]
        floors = [draw.min_p for draw in draws]
        top_k = [min(draw.top_k or vocabulary, vocabulary) for draw in draws]
        most = max(top_k) + MARGIN if way is Way.LEADING else NUCLEUS
        floored = way is Way.WHOLE and any(floors)
        return cls(
            way=way,
            penalised=penalised,
            rows=rows,
            take=take,
            states=states,
            keys=keys([draw.seed for draw in draws]),
            cuts=Cuts(
                temperature=column(heat, dtype),
                top_k=column(list(map(float, top_k)), torch.int64),
                top_p=column([draw.top_p if draw.top_p < 1 else 2.0 for draw in draws], dtype),
                min_p=column(floors, dtype),
            ),
            most=min(most, vocabulary),
            temperatures=column(heat, torch.float32) if set(heat) != {1.0} else None,
            floors=column(floors, torch.float32) if floored else None,
        )


@dataclass(frozen=True)
class Penalised:
    """The rows that penalties change, in the order of the copy that is made of them."""

    rows: list[int]
    take: slice | Tensor
    slots: list[int]
    places: Tensor
    """`slots` on the device."""
    penalties: Penalties
    repeating: bool
    counting: bool

    @classmethod
    def of(
        cls, rows: list[int], slots: Sequence[int], draws: Sequence[Draw], device: torch.device
    ) -> Penalised:
        theirs, places = [draws[row] for row in rows], [slots[row] for row in rows]
        return cls(
            rows=rows,
            take=taking(rows, device),
            slots=places,
            places=torch.tensor(places, device=device),
            penalties=Penalties.of(theirs, device),
            repeating=any(map(repeats, theirs)),
            counting=any(map(counts, theirs)),
        )


@dataclass(frozen=True)
class Plan:
    """How one set of draws is stepped, as long as it stays the same."""

    slots: tuple[int, ...]
    draws: tuple[Draw, ...]
    states: list[State]
    order: list[int]
    """The batch's rows, group after group."""
    groups: list[Group]
    penalised: Penalised | None
    asked: list[int]
    """Rows that want scores."""

    def is_for(self, slots: Sequence[int], draws: Sequence[Draw]) -> bool:
        # Draws are equal only if they are the same object.
        return self.slots == tuple(slots) and self.draws == tuple(draws)


def taking(rows: list[int], device: torch.device) -> slice | Tensor:
    """An index for `rows`; a slice where they are neighbours, so that nothing is copied."""
    if rows == list(range(rows[0], rows[-1] + 1)):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)
