"""Engine on torch: decoder-only models and encoder-decoders from transformers' checkpoints.

Puts the parts together: a network with its cache, a vocabulary, a sampler. Everything heavy is
in the `torch_*` neighbours; only they and this file know torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigurationError
from .base import Aborted, Batch, Limits, Outcome, Row, Score
from .torch_architectures import decoder
from .torch_checkpoint import read_checkpoint
from .torch_load import choose_dtype, load_model
from .torch_memory import fit_context
from .torch_networks import Causal, Encoded, Network
from .torch_parts import Kind, can_pack
from .torch_sampling import Sampler, scores
from .torch_t5 import t5
from .torch_vocab import Vocabulary

BATCH_TOKENS = 512
"""Tokens of a step. More makes a prompt no faster on a CPU, and a step others wait in longer."""
SCORED_LINES = 64
"""Log-probabilities of so many prompt tokens are computed at once: a large vocabulary times a
whole prompt would be gigabytes."""


class TorchEngine:
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
    ) -> TorchEngine:
        """Loads the checkpoint in folder `path` with `slots` + `pinned_slots` sequences.

        `device` as in a configuration; this process sees its own GPUs only, `gpus` of them.
        `context_length` None: the model's own, or what fits into half of the free memory.
        Raises WeightsError or ConfigurationError.
        """
        checkpoint = read_checkpoint(path, model_types=model_types)
        torch.set_num_threads(threads)
        place = _place(device, gpus)
        if dtype == "int8" and place != "cpu":
            raise ConfigurationError(
                f"dtype int8 is for CPUs and this model is on {device}; choose bfloat16 there",
                param="dtype",
            )
        kind: Kind = "int8" if dtype == "int8" else "plain"
        number = torch.float32 if dtype == "int8" else choose_dtype(dtype, place)
        if place == "cpu" and can_pack(number):
            kind = "packed"
        vocabulary = Vocabulary(checkpoint, end_texts=end_texts)
        with torch.inference_mode():
            model = load_model(checkpoint, dtype=number, device=place, lora=lora, gpus=gpus)
            sequences = slots + pinned_slots
            length = fit_context(model.config, context_length, sequences, number, place)
            network: Network
            if model.config.model_type == "t5":
                network = Encoded(t5(model, kind), slots=sequences, capacity=length)
            else:
                network = Causal(
                    decoder(model, kind, length), slots=sequences, capacity=length, dtype=number
                )
        suffix: tuple[int, ...] = ()
        if isinstance(network, Encoded):
            suffix = (*vocabulary.suffix, int(model.config.decoder_start_token_id))
        return cls(
            network,
            vocabulary,
            Limits(
                context_length=length,
                slots=sequences,
                batch_tokens=max(batch_tokens, sequences),
                vocabulary=network.shape.vocabulary,
                end_tokens=vocabulary.end_tokens,
                embedding_size=network.shape.hidden,
                whole_prompt=isinstance(network, Encoded),
                prompt_suffix=suffix,
            ),
        )

    def __init__(self, network: Network, vocabulary: Vocabulary, limits: Limits) -> None:
        self._network = network
        self._vocabulary = vocabulary
        self._limits = limits
        self._sampler = Sampler(limits.slots, limits.vocabulary, network.device)
        self._stepping = threading.Lock()
        self._in_step = False
        self._aborting = False

    # -- facts and text, from any thread --------------------------------------------------

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def control_texts(self) -> frozenset[str]:
        return self._vocabulary.control_texts

    @property
    def chat_template(self) -> str | None:
        return self._vocabulary.chat_template

    @property
    def begin_text(self) -> str:
        return self._vocabulary.begin_text

    @property
    def end_text(self) -> str:
        return self._vocabulary.end_text

    def tokenize(self, text: str, *, begin: bool, control: bool) -> list[int]:
        return self._vocabulary.tokenize(text, begin=begin, control=control)

    def piece(self, token: int) -> bytes:
        return self._vocabulary.piece(token)

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
            states, firsts = self._evaluate(batch.rows)
            drawn = self._draw(batch.rows, states, firsts)
            return [
                Outcome(row.slot, *drawn[place], targets=self._score(row, states, first))
                for place, (row, first) in enumerate(zip(batch.rows, firsts, strict=True))
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
            text = [*tokens, *self._vocabulary.suffix]
            with torch.inference_mode():
                mean = self._network.pooled(text, self._limits.batch_tokens, between)
                vectors.append(torch.nn.functional.normalize(mean, dim=0).tolist())
        return vectors

    def close(self) -> None:
        """Nothing to free that the interpreter does not free with the engine."""

    # -- parts ----------------------------------------------------------------------------

    def _evaluate(self, rows: Sequence[Row]) -> tuple[Tensor, list[int]]:
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

    def _draw(
        self, rows: Sequence[Row], states: Tensor, firsts: Sequence[int]
    ) -> list[tuple[int | None, Score | None]]:
        drawn: list[tuple[int | None, Score | None]] = [(None, None)] * len(rows)
        places = [place for place, row in enumerate(rows) if row.draw is not None]
        if not places:
            return drawn
        lines = [firsts[place] + self._lines(rows[place]) - 1 for place in places]
        if lines != list(range(len(states))):
            states = states[torch.tensor(lines, device=states.device)]
        draws = [draw for row in rows if (draw := row.draw) is not None]
        slots = [rows[place].slot for place in places]
        chosen = self._sampler.choose(self._network.logits(states), slots, draws)
        for place, choice in zip(places, chosen, strict=True):
            drawn[place] = choice
        return drawn

    def _lines(self, row: Row) -> int:
        """States that a row has: an encoder's tokens have none."""
        return 1 if self._limits.whole_prompt else len(row.tokens)

    def _score(self, row: Row, states: Tensor, first: int) -> list[Score]:
        found: list[Score] = []
        for start in range(0, len(row.targets), SCORED_LINES):
            targets = row.targets[start : start + SCORED_LINES]
            lines = states[first + start : first + start + len(targets)]
            found += scores(self._network.logits(lines), targets, row.top)
        return found


def _place(device: str, gpus: int) -> str:
    """What torch calls the device of a configuration, in a process that sees only its own GPUs."""
    if device == "mps":
        return "mps"
    if gpus > 1:
        return "auto"
    if gpus == 1 or (device == "auto" and torch.cuda.is_available()):
        return "cuda:0"
    return "cpu"
