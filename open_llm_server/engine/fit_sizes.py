"""How much memory a model takes, as numbers that depend on its context and its slots. Pure.

Every engine reads its `Sizes` out of the headers of its weights (`fit_llama`, `fit_torch`); what
may be done with them is the same for all. Weights count once and in full: an engine reads them
out of the file's pages or keeps a copy, and is slow wherever neither stays in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .memory import default_context

MIB = 1024**2
LONGEST = 16_777_216
"""Tokens that a context may have at all."""
MOST_SLOTS = 1024
PINNED_SLOTS = 2
"""For a pre-prompt, in chats and in plain completions, beside the slots of callers."""
GPU_CONTEXT_BYTES = 600 * MIB
"""What a GPU's own libraries take of it before anything else does."""


@dataclass(frozen=True)
class Need:
    """Bytes, on the device that computes."""

    weights: int
    cache: int
    """Keys and values of all slots, and of what is moved or embedded beside them."""
    overhead: int
    """The process, its vocabulary, what a step computes, what loading takes for a while."""
    host: int = 0
    """In main memory, beside a GPU."""

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.overhead


@dataclass(frozen=True)
class Sizes:
    """One model on one kind of device; everything in bytes unless it says otherwise."""

    weights: int
    token: int
    """Keys and values of one token in one sequence."""
    trained: int
    """Tokens of context where nobody asks for a number."""
    fixed: int
    """Whatever the context and the slots are."""
    per_sequence: int = 0
    per_position: int = 0
    """For each token of context, once."""
    per_cell: int = 0
    """For each token of context in each sequence, beside `token`."""
    per_square: int = 0
    """For each pair of tokens of one prompt."""
    loading: int = 0
    """Beside the weights until they are loaded; the cache is filled after that."""
    host: int = 0
    multiple: int = 1
    """Contexts take room as if they were multiples of so many tokens."""
    moving: int = 0
    """Sequences whose tokens may be on the way to another place, where there are several."""
    most_sequences: int = MOST_SLOTS
    unbounded: bool = False
    """Contexts longer than `trained` are usual."""

    def need(self, context: int, sequences: int) -> Need:
        """For `sequences` of `context` tokens each."""
        cells = -(-context // self.multiple) * self.multiple
        # One more sequence than there are slots: an input that is embedded has a cache of its own.
        spare = max(1, self.moving) if sequences > 1 else 1
        cache = self.token * cells * (sequences + spare)
        working = (
            self.per_sequence * sequences
            + self.per_position * cells
            + self.per_cell * cells * sequences
            + self.per_square * context * context
        )
        transient = max(working, self.loading - cache)
        return Need(self.weights, cache, self.fixed + transient, self.host)

    def context(self, wanted: int | None, sequences: int, free: int | None) -> int:
        """Tokens that the engine gives each of `sequences`: as `wanted`, else what it chooses
        itself, once its weights are loaded, where `free` bytes were free before."""
        if wanted is not None or free is None or not self.token:
            return wanted or self.trained
        return default_context(
            self.trained,
            sequences=sequences,
            token_bytes=self.token,
            free=max(0, free - self.weights),
            multiple=self.multiple,
        )

    def longest(self, sequences: int, free: int, *, wanted: int | None = None) -> int:
        """The longest context of `sequences` in `free` bytes; 0 where none fits. Longer than what
        the model was made for only where that is usual, or `wanted`."""
        most = LONGEST if self.unbounded and self.token else max(self.trained, wanted or 0)
        step = min(self.multiple, most)
        found = _most(most // step, lambda n: self.need(n * step, sequences).total <= free)
        return found * step

    def most_slots(self, context: int, free: int, *, pinned: int = 0) -> int:
        """How many slots of `context` tokens fit into `free` bytes beside `pinned` ones."""
        return _most(
            self.most_sequences - pinned, lambda n: self.need(context, n + pinned).total <= free
        )


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `limit` that fits, where every smaller one does; else 0."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
