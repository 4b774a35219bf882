"""Keys and values of all slots, preallocated; which row holds which slot, and how rows move.

A slot's tokens lie from position 0 on, one row of memory for each slot, so nothing moves when
others join or leave (docs/adr/0011). Slots that decode together are made neighbouring rows: one
attention call then reads them where they are.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from .base import Copy
from .neighbours import exchanges


class Block:
    """The keys and values of one layer: [rows, positions, 2, heads, head size]."""

    __slots__ = ("_flat", "content")

    def __init__(
        self,
        rows: int,
        positions: int,
        heads: int,
        head_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.content = _zeros((rows, positions, 2, heads, head_size), dtype, device)
        self._flat = self.content.view(rows * positions, 2, heads, head_size)

    def write(self, places: Tensor, values: Tensor) -> None:
        """Puts `values`, [tokens, 2, heads, size], at `places` (row · positions + position)."""
        self._flat.index_copy_(0, places, values)

    def keys(self, first: int, end: int, length: int) -> Tensor:
        """[rows, heads, length, head size] of the rows from `first` to `end`."""
        return self.content[first:end, :length, 0].transpose(1, 2)

    def values(self, first: int, end: int, length: int) -> Tensor:
        return self.content[first:end, :length, 1].transpose(1, 2)

    def copy(self, source: int, target: int, length: int) -> None:
        self.content[target, :length].copy_(self.content[source, :length])

    def exchange(self, one: int, two: int, length: int) -> None:
        kept = self.content[one, :length].clone()
        self.copy(two, one, length)
        self.content[two, :length].copy_(kept)

    def permute(self, rows: Sequence[int], parents: Sequence[int], length: int) -> None:
        """Row `rows[i]` takes what row `parents[i]` holds now."""
        if rows and length:
            self.content[list(rows), :length] = self.content[list(parents), :length]


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, because what is masked is still multiplied, and garbage may be no number.

    On a CPU pages that nobody touches take no memory; huge pages would be touched by the first
    token of each row.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


class Rows:
    """Which row holds which slot, and how much of it.

    `held[slot]` counts in the scheduler's tokens. `encoded[slot]` of these were read by an
    encoder: they lie in the `cross` blocks, and the others, from position 0 on, in the `own` ones.
    """

    def __init__(self, count: int, own: Sequence[Block], cross: Sequence[Block] = ()) -> None:
        self._of = list(range(count))
        self._own = own
        self._cross = cross
        self.held = [0] * count
        self.encoded = [0] * count

    def of(self, slot: int) -> int:
        return self._of[slot]

    def trim(self, slot: int, length: int) -> None:
        """`slot` forgets its tokens from `length` on; a part of what was encoded is of no use."""
        if length < self.encoded[slot]:
            self.encoded[slot] = length = 0
        self.held[slot] = min(self.held[slot], length)

    def copy(self, copies: Sequence[Copy]) -> None:
        """In their order: what one copy brought may be the source of the next."""
        for copy in copies:
            self.held[copy.target] = copy.length
            self.encoded[copy.target] = self.encoded[copy.source]
            source, target = self._of[copy.source], self._of[copy.target]
            for blocks, length in self._lengths(copy.target):
                for block in blocks:
                    block.copy(source, target, length)

    def permute(self, slots: Sequence[int], parents: Sequence[int]) -> None:
        """Each of `slots` takes the answer that the slot of its parent holds; `parents` are places
        in `slots`. They share one prompt, which stays where it is."""
        rows = [self._of[slot] for slot in slots]
        length = self.held[slots[0]] - self.encoded[slots[0]]
        changed = [place for place, parent in enumerate(parents) if place != parent]
        for block in self._own:
            block.permute(
                [rows[place] for place in changed], [rows[parents[i]] for i in changed], length
            )

    def gather(self, slots: Collection[int]) -> None:
        """Makes the rows of `slots` neighbours, moving as few tokens as it takes."""
        for one, two in exchanges(self._of, self.held, slots):
            here, there = self._of[one], self._of[two]
            for (blocks, first), (_, second) in zip(
                self._lengths(one), self._lengths(two), strict=True
            ):
                for block in blocks:
                    _exchange(block, here, there, first, second)
            self._of[one], self._of[two] = there, here

    def _lengths(self, slot: int) -> list[tuple[Sequence[Block], int]]:
        encoded = self.encoded[slot]
        return [(self._own, self.held[slot] - encoded), (self._cross, encoded)]


def _exchange(block: Block, here: int, there: int, first: int, second: int) -> None:
    if not second:
        block.copy(here, there, first)
    elif not first:
        block.copy(there, here, second)
    else:
        block.exchange(here, there, max(first, second))
