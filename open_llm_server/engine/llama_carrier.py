"""Carries what one sequence of a llama.cpp context holds over to another.

llama.cpp's own copy between sequences that have memory of their own moves all of it, used or not:
with a long context that is gigabytes, and touches pages that nobody needed yet. Its session state
holds the used cells only.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .llama_native import native


class Carrier:
    """One context's sequences. For the engine's thread."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._state = np.empty(0, np.uint8)
        self._size = 0
        self._source: int | None = None

    def carry(self, source: int, target: int) -> None:
        """Makes `target` hold what `source` holds, and nothing else.

        A source is read once for all targets that follow each other, until `forget`.
        """
        if self._source != source:
            self._load(source)
        if not native.llama_state_seq_set_data(self._context, self._pointer(), self._size, target):
            raise RuntimeError("llama.cpp cannot copy a sequence that fits")

    def forget(self) -> None:
        """What was read last is out of date from now on."""
        self._source = None

    def _load(self, source: int) -> None:
        needed = native.llama_state_seq_get_size(self._context, source)
        if needed > len(self._state):
            self._state = np.empty(needed, np.uint8)  # kept: fresh pages cost more than the copy
        self._size = native.llama_state_seq_get_data(
            self._context, self._pointer(), len(self._state), source
        )
        self._source = source

    def _pointer(self) -> Any:
        return self._state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
