"""Engine on torch: decoder-only models and encoder-decoders from transformers' checkpoints.

Puts the parts together: a network with its cache, a vocabulary, a sampler. Everything heavy is
in the `torch_*` neighbours; only they and this file know torch.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigurationError, EngineError
from .base import Aborted, Batch, Limits, Outcome, Row, RowError, Score
from .fit_torch import BATCH_TOKENS, SCORED_LINES
from .memory import give_back
from .suffix import ended, input_suffix
from .torch_architectures import decoder
from .torch_checkpoint import read_checkpoint
from .torch_load import choose_dtype, load_model
from .torch_memory import fit_context
from .torch_networks import Causal, Encoded, Network
from .torch_parts import Kind, can_pack
from .torch_sampling import Sampler, scores
from .torch_searches import Searches
from .torch_t5 import t5
from .torch_vocab import Vocabulary
from .vocabulary import VocabularyEngine

_NOTHING: tuple[int | None, Score | None] = (None, None)


class TorchEngine(VocabularyEngine):
    """One checkpoint, many sequences at once. See `Engine` for who may call what."""

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        model_types: Collection[str],
        context_length: int | None,
        slots: int,
        threads: int,
        pinned_slots: int = 0,
        device: str = "cpu",
        gpus: int = 0,
        dtype: str = "auto",
        lora: Sequence[str | Path] = (),
        end_texts: Sequence[str] = (),
        batch_tokens: int = BATCH_TOKENS,
        force: bool = False,
    ) -> TorchEngine:
        """Loads the checkpoint in folder `path` with `slots` + `pinned_slots` sequences.

        `device` as in a configuration; this process sees its own GPUs only, `gpus` of them.
        `context_length` None: the model's own, or what fits into half of the free memory.
        `force`: even where memory looks too small. Raises WeightsError or ConfigurationError.
        """
        checkpoint = read_checkpoint(path, model_types=model_types)
        torch.set_num_threads(threads)
        place = _place(device, gpus)
        number, kind = _precision(dtype, place, stored_int8=checkpoint.int8)
        vocabulary = Vocabulary(checkpoint, end_texts=end_texts)
        sequences = slots + pinned_slots
        with torch.inference_mode():
            model = load_model(checkpoint, dtype=number, device=place, lora=lora, gpus=gpus)
            length = fit_context(
                model.config, context_length, sequences, number, place, force=force
            )
            network: Network
            suffix: tuple[int, ...] = ()
            if model.config.is_encoder_decoder:
                suffix = (*vocabulary.suffix, int(model.config.decoder_start_token_id))
                network = Encoded(t5(model, kind), slots=sequences, capacity=length)
            else:
                frame = decoder(model, kind, length)
                network = Causal(frame, slots=sequences, capacity=length, dtype=number)
        del model
        give_back()
        limits = Limits(
            context_length=length,
            slots=sequences,
            batch_tokens=max(batch_tokens, sequences),
            vocabulary=network.shape.vocabulary,
            end_tokens=vocabulary.end_tokens,
            embedding_size=network.shape.hidden,
            whole_prompt=bool(suffix),
            prompt_suffix=suffix,
        )
        return cls(network, vocabulary, limits)

    def __init__(self, network: Network, vocabulary: Vocabulary, limits: Limits) -> None:
        super().__init__(vocabulary, limits)
        self._network = network
        self._searches = Searches(limits, network.rows)
        self._sampler = Sampler(limits.slots, limits.vocabulary, network.device)
        self._stepping = threading.Lock()
        self._in_step = False
        self._aborting = False

    # -- from any thread ------------------------------------------------------------------

    def abort(self) -> None:
        with self._stepping:
            self._aborting = self._in_step

    # -- the engine's thread --------------------------------------------------------------

    def step(self, batch: Batch) -> list[Outcome]:
        with torch.inference_mode():
            held = self._network.rows
            for slot, length in batch.trims:
                held.trim(slot, length)
            held.copy(batch.copies)
            if not batch.rows:
                return []
            rows = self._searches.expand(batch.rows)
            states, firsts = self._evaluate(rows)
            begins = {row.slot: first for row, first in zip(rows, firsts, strict=True)}
            logits, lines = self._logits(rows, states, begins)
            # Whatever may find a row that cannot be computed comes before tokens are chosen:
            # nothing of the step's rows counts then, and a sampler remembers what it chose.
            found = self._searches.advance(batch.rows, logits, lines)
            scored = {
                row.slot: self._score(row, states, begins[row.slot])
                for row in batch.rows
                if row.targets
            }
            drawn = self._draw(batch.rows, logits, lines)
            return [
                Outcome(
                    row.slot,
                    *drawn.get(row.slot, _NOTHING),
                    scored.get(row.slot, ()),
                    found.get(row.slot, ()),
                )
                for row in batch.rows
            ]

    def forget(self, slot: int) -> None:
        self._network.rows.trim(slot, 0)
        self._sampler.forget(slot)

    def embed(
        self, inputs: Sequence[Sequence[int]], *, between: Callable[[], None] = lambda: None
    ) -> list[list[float]]:
        vectors: list[list[float]] = []
        for tokens in inputs:
            if vectors:
                between()
            text = ended(tokens, input_suffix(self._limits))
            with torch.inference_mode():
                mean = self._network.pooled(text, self._limits.batch_tokens, between)
                if not torch.isfinite(mean).all():
                    raise EngineError("the model's embedding of this input is not a number")
                vectors.append(torch.nn.functional.normalize(mean, dim=0).tolist())
        return vectors

    def close(self) -> None:
        """Nothing to free that the interpreter does not free with the engine."""

    # -- parts ----------------------------------------------------------------------------

    def _evaluate(self, rows: Sequence[Row]) -> tuple[Tensor, list[int]]:
        if not rows:  # searches that are over, whose result got lost with another row's error
            return torch.empty(0, self._network.shape.hidden, device=self._network.device), []
        with self._stepping:
            self._in_step, self._aborting = True, False
        try:
            return self._network.evaluate(rows, self._check)
        finally:
            with self._stepping:
                self._in_step = False

    def _check(self) -> None:
        if self._aborting:
            raise Aborted

    def _logits(
        self, rows: Sequence[Row], states: Tensor, begins: Mapping[int, int]
    ) -> tuple[Tensor, dict[int, int]]:
        """After the last token of each row that chooses, and each slot's line in them."""
        choosing = [row for row in rows if row.draw is not None]
        wanted = [begins[row.slot] + self._lines(row) - 1 for row in choosing]
        lines = {row.slot: line for line, row in enumerate(choosing)}
        if wanted != list(range(len(states))):
            states = states[torch.tensor(wanted, dtype=torch.long, device=states.device)]
        return self._network.logits(states) if wanted else states, lines

    def _draw(
        self, rows: Sequence[Row], logits: Tensor, lines: Mapping[int, int]
    ) -> dict[int, tuple[int, Score | None]]:
        """The chosen token of each slot that draws one."""
        slots = [row.slot for row in rows if row.draw and not row.search]
        if not slots:
            return {}
        draws = [draw for row in rows if (draw := row.draw) and not row.search]
        wanted = [lines[slot] for slot in slots]
        if wanted != list(range(len(logits))):
            logits = logits[torch.tensor(wanted, device=logits.device)]
        return dict(zip(slots, self._sampler.choose(logits, slots, draws), strict=True))

    def _lines(self, row: Row) -> int:
        """States that a row has: an encoder's tokens have none."""
        return 1 if self._limits.whole_prompt else len(row.tokens)

    def _score(self, row: Row, states: Tensor, first: int) -> list[Score]:
        found: list[Score] = []
        for start in range(0, len(row.targets), SCORED_LINES):
            targets = row.targets[start : start + SCORED_LINES]
            lines = states[first + start : first + start + len(targets)]
            found += scores(self._network.logits(lines), targets, row.top)
        if any(math.isnan(score.logprob) for score in found):
            raise RowError(row.slot, "the model's output is not a number")
        return found


def _precision(dtype: str, place: str, *, stored_int8: bool) -> tuple[torch.dtype, Kind]:
    """What a configuration's dtype means on this device: numbers, and kind of linear layers."""
    if dtype == "int8" or (dtype == "auto" and stored_int8 and place == "cpu"):
        if place != "cpu":
            raise ConfigurationError(
                "dtype int8 is for CPUs and this model is on a GPU; choose bfloat16 there",
                param="dtype",
            )
        return torch.float32, "int8"
    number = choose_dtype(dtype, place)
    return number, "packed" if place == "cpu" and can_pack(number) else "plain"


def _place(device: str, gpus: int) -> str:
    """What torch calls the device of a configuration, in a process that sees only its own GPUs."""
    if device == "mps":
        return "mps"
    if gpus > 1:
        return "auto"
    if gpus == 1 or (device == "auto" and torch.cuda.is_available()):
        return "cuda:0"
    return "cpu"
