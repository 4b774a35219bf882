"""Engine on llama.cpp through the low-level API of llama-cpp-python.

Fills the batch by hand and reads the return codes itself (the binding's own helpers do neither
reliably, see docs/adr/0010). Only this file and its `llama_*` neighbours know llama.cpp.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import ConfigurationError
from . import gguf
from .base import Aborted, Batch, Limits, Outcome, Row, RowError, Score
from .fit_llama import BATCH_TOKENS, CELL_PADDING, Cells
from .llama_batch import Output, Staging
from .llama_embedding import Embedder
from .llama_native import AbortFlag, Model, brief, native
from .llama_sampling import Logits, Sampler, score
from .llama_sequences import Sequences
from .llama_vocab import Vocabulary
from .vocabulary import VocabularyEngine

_NO_ROOM, _ABORTED = 1, 2  # what llama_decode returns beside 0 and errors

_get_logits = brief("llama_get_logits")


class LlamaCppEngine(VocabularyEngine):
    """One GGUF model, many sequences at once. See `Engine` for who may call what."""

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        context_length: int | None,
        slots: int,
        threads: int,
        gpu_layers: int = 0,
        lora: Sequence[str | Path] = (),
        pinned_slots: int = 0,
        batch_tokens: int = BATCH_TOKENS,
        force: bool = False,
    ) -> LlamaCppEngine:
        """Loads `path` with `slots` sequences of `context_length` tokens, and `pinned_slots` more.

        `context_length` None: the model's own, or what fits into half of the free memory.
        `gpu_layers` -1: all layers on the GPU. `force`: even where memory looks too small. Raises
        WeightsError or ConfigurationError.
        """
        sequences = slots + pinned_slots
        most = native.llama_max_parallel_sequences()
        if sequences > most:
            raise ConfigurationError(
                f"llama.cpp holds {most} sequences at most, and {sequences} slots are wanted "
                f"(--slots, and {pinned_slots} for the pre-prompt); use at most "
                f"{most - pinned_slots} slots"
            )
        header = gguf.read_header(path)
        for adapter in lora:
            gguf.read_header(Path(adapter), adapter=True)
        model = Model(path, gpu_layers=gpu_layers)
        try:
            model.adapt(lora)
            return cls(
                model,
                context_length=model.fit_context(
                    context_length, sequences, Cells.of(header), force=force
                ),
                sequences=sequences,
                threads=threads,
                batch_tokens=max(batch_tokens, sequences),
            )
        except BaseException:
            model.close()
            raise

    def __init__(
        self,
        model: Model,
        *,
        context_length: int,
        sequences: int,
        threads: int,
        batch_tokens: int,
    ) -> None:
        self._model = model
        self._flag = AbortFlag()
        padded = -(-context_length // CELL_PADDING) * CELL_PADDING
        self._context = model.new_context(
            cells=padded * sequences,
            sequences=sequences,
            batch_tokens=batch_tokens,
            threads=threads,
            flag=self._flag,
        )
        vocabulary = Vocabulary(model, context_length=context_length)
        self._embedder = Embedder(model, context_length=context_length, threads=threads)
        self._staging = Staging(batch_tokens, sequences)
        self._sequences = Sequences(self._context, sequences)
        self._samplers: list[Sampler | None] = [None] * sequences
        self._stepping = threading.Lock()
        self._in_step = False
        limits = Limits(
            context_length=context_length,
            slots=sequences,
            batch_tokens=batch_tokens,
            vocabulary=model.shape.vocabulary,
            end_tokens=vocabulary.end_tokens,
            embedding_size=model.shape.embedding_size,
        )
        super().__init__(vocabulary, limits)

    # -- from any thread ------------------------------------------------------------------

    def abort(self) -> None:
        with self._stepping:
            if self._in_step:
                self._flag.raise_()

    # -- the engine's thread --------------------------------------------------------------

    def step(self, batch: Batch) -> list[Outcome]:
        for slot, length in batch.trims:
            self._sequences.trim(slot, length)
        self._sequences.copy(batch.copies)
        if not batch.rows:
            return []
        self._refuse_misfits(batch)
        self._sequences.gather({row.slot for row in batch.rows})
        rows = sorted(batch.rows, key=lambda row: self._sequences.of(row.slot))
        outputs = self._staging.fill(rows, [self._sequences.of(row.slot) for row in rows])
        try:
            self._decode(rows)
            logits = self._logits(outputs[-1].end)
            self._refuse_broken(rows, outputs, logits)
        except BaseException:
            for row in rows:  # nothing of the rows counts: what was written goes away
                self._sequences.trim(row.slot, row.start)
            raise
        for row in rows:
            self._sequences.held[row.slot] = row.start + len(row.tokens)
        by_slot = {
            row.slot: self._outcome(row, output, logits)
            for row, output in zip(rows, outputs, strict=True)
        }
        return [by_slot[row.slot] for row in batch.rows]

    def forget(self, slot: int) -> None:
        self._sequences.trim(slot, 0)
        self._drop_sampler(slot)

    def embed(
        self, inputs: Sequence[Sequence[int]], *, between: Callable[[], None] = lambda: None
    ) -> list[list[float]]:
        return [self._embedder.embed(tokens, between) for tokens in inputs]

    def close(self) -> None:
        if self._context is None:
            return
        for slot in range(len(self._samplers)):
            self._drop_sampler(slot)
        self._embedder.close()
        native.llama_free(self._context)
        self._context = None
        self._model.close()

    # -- parts ----------------------------------------------------------------------------

    def _refuse_misfits(self, batch: Batch) -> None:
        """llama.cpp would end the process on some of these."""
        if batch.tokens > self._limits.batch_tokens:
            raise ValueError(
                f"a step of {batch.tokens} tokens is over the limit {self._limits.batch_tokens}"
            )
        for row in batch.rows:
            held = self._sequences.held[row.slot]
            if row.start != held or not row.tokens:
                raise ValueError(
                    f"slot {row.slot} holds {held} tokens; a row of "
                    f"{len(row.tokens)} cannot start at {row.start}"
                )

    def _decode(self, rows: Sequence[Row]) -> None:
        with self._stepping:
            self._flag.lower()
            self._in_step = True
        try:
            code = native.llama_decode(self._context, self._staging.batch)
        finally:
            with self._stepping:
                self._in_step = False
        if code == 0:
            return
        if code == _ABORTED:
            raise Aborted
        if code == _NO_ROOM:
            longest = max(rows, key=lambda row: len(row.tokens))
            raise RowError(longest.slot, "the model's memory has no room for it; try again")
        raise RuntimeError(f"llama.cpp failed with code {code}: {self._model.last_error()}")

    def _logits(self, lines: int) -> Logits:
        """The logits of all outputs, in llama.cpp's own memory, good until the next step."""
        width = self._limits.vocabulary
        if not lines:
            return np.empty((0, width), np.float32)
        address = ctypes.cast(_get_logits(self._context), ctypes.c_void_p).value
        assert address is not None
        flat = (ctypes.c_float * (lines * width)).from_address(address)
        return np.frombuffer(memoryview(flat), np.float32).reshape(lines, width)

    @staticmethod
    def _refuse_broken(rows: Sequence[Row], outputs: Sequence[Output], logits: Logits) -> None:
        """The samplers of llama.cpp end the process when no logit is a number."""
        for line in np.flatnonzero(~np.isfinite(logits[:, 0])):
            if not math.isfinite(logits[line].max()):
                slot = next(
                    row.slot
                    for row, output in zip(rows, outputs, strict=True)
                    if output.first <= line < output.end
                )
                raise RowError(slot, "the model's output is not a number")

    def _outcome(self, row: Row, output: Output, logits: Logits) -> Outcome:
        targets: list[Score] = [
            score(logits[output.first + place], target, row.top)
            for place, target in enumerate(row.targets)
        ]
        draw = row.draw
        if draw is None:
            return Outcome(row.slot, targets=targets)
        sampler = self._samplers[row.slot]
        if sampler is None or sampler.draw is not draw:
            self._drop_sampler(row.slot)
            sampler = self._samplers[row.slot] = Sampler(draw)
        line = logits[output.end - 1]
        # Scores are of the model as it is, so they come before penalties overwrite logits.
        raw = line.copy() if draw.logprobs is not None else line
        token = sampler.choose(self._context, output.at + len(row.tokens) - 1, line)
        found = None if draw.logprobs is None else score(raw, token, draw.logprobs)
        return Outcome(row.slot, token=token, score=found, targets=targets)

    def _drop_sampler(self, slot: int) -> None:
        sampler = self._samplers[slot]
        if sampler is not None:
            sampler.close()
            self._samplers[slot] = None
