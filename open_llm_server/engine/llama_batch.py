"""The arrays behind a `llama_batch`, filled by hand for each step.

llama-cpp-python's own helpers start positions at 0 and mark the wrong outputs; see
docs/adr/0010-llama-cpp-batch-by-hand.md.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .base import Row
from .llama_native import native


@dataclass(frozen=True)
class Output:
    """A row's share of the outputs: first place in the batch, first and end line of logits."""

    at: int
    first: int
    end: int


class Staging:
    """The arrays behind a `llama_batch`, filled again for each step."""

    def __init__(self, tokens: int, sequences: int) -> None:
        self._tokens = np.zeros(tokens, np.int32)
        self._positions = np.zeros(tokens, np.int32)
        self._counts = np.ones(tokens, np.int32)
        self._wanted = np.zeros(tokens, np.int8)
        self._sequences = np.arange(sequences, dtype=np.int32)
        self._pointers = np.zeros(tokens, np.uintp)
        self._first = self._sequences.ctypes.data
        self.batch = native.llama_batch()
        for name, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._counts),
            ("seq_id", self._pointers),
            ("logits", self._wanted),
        ):
            kind = dict(native.llama_batch._fields_)[name]
            setattr(self.batch, name, ctypes.cast(array.ctypes.data, kind))

    def fill(self, rows: Sequence[Row], sequences: Sequence[int]) -> list[Output]:
        """Writes `rows`, each for its one of `sequences`; the outputs are in their order."""
        at = line = 0
        outputs = []
        for row, sequence in zip(rows, sequences, strict=True):
            count = len(row.tokens)
            pointer = self._first + 4 * sequence
            scored = len(row.targets)
            if count == 1:
                self._tokens[at] = row.tokens[0]
                self._positions[at] = row.start
                self._pointers[at] = pointer
                wanted = row.draw is not None or scored > 0
                self._wanted[at] = wanted
                lines = int(wanted)
            else:
                end = at + count
                self._tokens[at:end] = row.tokens
                self._positions[at:end] = np.arange(row.start, row.start + count)
                self._pointers[at:end] = pointer
                self._wanted[at:end] = 0
                self._wanted[at : at + scored] = 1
                lines = scored
                if row.draw is not None and scored < count:
                    self._wanted[end - 1] = 1
                    lines += 1
            outputs.append(Output(at, line, line + lines))
            at += count
            line += lines
        self.batch.n_tokens = at
        return outputs
