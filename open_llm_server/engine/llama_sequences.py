"""Which sequence of a llama.cpp context holds which slot, how much of it, and moves between them.

Each sequence has memory of its own, and llama.cpp evaluates neighbouring sequences together but
others one after the other, each time with a look at all the weights. So slots that work together
are made neighbours. What moves, moves as session state, which holds the used cells only;
llama.cpp's own copy moves a sequence's whole memory, gigabytes with a long context.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from .base import Copy
from .llama_native import brief, native
from .neighbours import exchanges

_remove = brief("llama_memory_seq_rm")

KEPT_BYTES = 256 * 1024 * 1024
"""Room for states is kept up to this size, because fresh pages cost more than the copy; more than
that would be missed elsewhere."""


class Sequences:
    """One context's sequences. For the engine's thread."""

    def __init__(self, context: Any, count: int) -> None:
        self._context = context
        self._memory = native.llama_get_memory(context)
        self._of = list(range(count))
        self._states = _State(context), _State(context)
        self.held = [0] * count
        """Tokens that each slot holds."""

    def of(self, slot: int) -> int:
        """The sequence that holds `slot`."""
        return self._of[slot]

    def trim(self, slot: int, length: int) -> None:
        """`slot` forgets its tokens from `length` on."""
        _remove(self._memory, self._of[slot], length, -1)
        self.held[slot] = min(self.held[slot], length)

    def copy(self, copies: Sequence[Copy]) -> None:
        """In their order: what one copy brought may be the source of the next."""
        state, read = self._states[0], None
        for copy in copies:
            if read != copy.source:
                state.read(self._of[copy.source])
                read = copy.source
            state.write(self._of[copy.target])
            self.held[copy.target] = self.held[copy.source]
            self.trim(copy.target, copy.length)
            if read == copy.target:
                read = None
        state.release()

    def gather(self, slots: Collection[int]) -> None:
        """Makes `slots` neighbours, moving as few tokens as it takes."""
        for one, two in exchanges(self._of, self.held, slots):
            self._swap(one, two)

    def _swap(self, one: int, two: int) -> None:
        here, there = self._of[one], self._of[two]
        for state, slot in zip(self._states, (one, two), strict=True):
            if self.held[slot]:
                state.read(self._of[slot])
        for state, slot, target in zip(self._states, (one, two), (there, here), strict=True):
            if self.held[slot]:
                state.write(target)
            else:
                _remove(self._memory, target, -1, -1)
        self._of[one], self._of[two] = there, here
        for state in self._states:
            state.release()


class _State:
    """What one sequence held when it was read."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._bytes = np.empty(0, np.uint8)
        self._size = 0

    def read(self, sequence: int) -> None:
        needed = native.llama_state_seq_get_size(self._context, sequence)
        if needed > len(self._bytes):
            self._bytes = np.empty(needed, np.uint8)
        self._size = native.llama_state_seq_get_data(
            self._context, self._pointer(), len(self._bytes), sequence
        )

    def write(self, sequence: int) -> None:
        """`sequence` holds this, and nothing else."""
        if not native.llama_state_seq_set_data(
            self._context, self._pointer(), self._size, sequence
        ):
            raise RuntimeError("llama.cpp cannot copy a sequence that fits")

    def release(self) -> None:
        """Gives a large room back."""
        if len(self._bytes) > KEPT_BYTES:
            self._bytes = np.empty(0, np.uint8)

    def _pointer(self) -> Any:
        return self._bytes.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
