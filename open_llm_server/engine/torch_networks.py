"""Models with their caches: rows of a step in, hidden states out.

Two of a kind: decoder-only models, and encoder-decoders. Everything that differs between them
behind the engine lives here; neither knows tokens' texts nor how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .base import Row
from .torch_cache import Block, Rows
from .torch_decoder import Decoder, Shape
from .torch_ragged import LARGEST_PADDING, Part, Span, decoding_parts, order, pack, padding
from .torch_t5 import T5

Check = Callable[[], None]


class Network(Protocol):
    """For the engine's thread, inside `torch.inference_mode`."""

    @property
    def rows(self) -> Rows: ...

    @property
    def shape(self) -> Shape: ...

    @property
    def device(self) -> torch.device:
        """Where final states and logits are."""
        ...

    def evaluate(self, rows: Sequence[Row], check: Check) -> tuple[Tensor, list[int]]:
        """Final states of [tokens, hidden], and where in them each row's states begin.

        Counts the tokens as held. What `check` raises ends the step; nothing counts then.
        """
        ...

    def logits(self, states: Tensor) -> Tensor:
        """[lines, vocabulary] in float32, of states of [lines, hidden]."""
        ...

    def pooled(self, tokens: Sequence[int], chunk: int, between: Check) -> Tensor:
        """The mean of a text's states, [hidden], float32. Touches no row."""
        ...


class Causal:
    """A decoder-only model and the keys and values of its slots."""

    def __init__(self, model: Decoder, *, slots: int, capacity: int, dtype: torch.dtype) -> None:
        """`capacity`: tokens that a slot can hold."""
        self._model = model
        self._capacity = max(capacity, LARGEST_PADDING)
        self._spare = slots
        self._dtype = dtype
        self._device = model.devices.embed
        self.device = model.devices.head
        self.shape = model.shape
        self._blocks = self._new_blocks(slots + 1, self._capacity)
        self.rows = Rows(slots, self._blocks)

    def evaluate(self, rows: Sequence[Row], check: Check) -> tuple[Tensor, list[int]]:
        _refuse_misfits(rows, self.rows, self._capacity)
        self.rows.gather([row.slot for row in rows if len(row.tokens) == 1])
        spans = [Span(self.rows.of(row.slot), row.start, row.tokens) for row in rows]
        places = order(spans)
        batch = pack(
            [spans[place] for place in places],
            self._capacity,
            self._dtype,
            self._device,
            self._model.bias,
            self._spare,
        )
        states = self._model.states(batch, self._blocks, check)
        firsts = [0] * len(rows)
        line = 0
        for place in places:
            firsts[place] = line
            line += len(rows[place].tokens)
        for row in rows:
            self.rows.held[row.slot] = row.start + len(row.tokens)
        return states, firsts

    def logits(self, states: Tensor) -> Tensor:
        return self._model.logits(states)

    def pooled(self, tokens: Sequence[int], chunk: int, between: Check) -> Tensor:
        length = max(len(tokens), LARGEST_PADDING)
        blocks = self._new_blocks(2, length)
        total = torch.zeros(self.shape.hidden)
        for start in range(0, len(tokens), chunk):
            if start:
                between()
            span = Span(0, start, tokens[start : start + chunk])
            batch = pack([span], length, self._dtype, self._device, self._model.bias, spare=1)
            states = self._model.states(batch, blocks, lambda: None)[: len(span.tokens)]
            total += states.sum(dim=0, dtype=torch.float32).cpu()
        return total / len(tokens)

    def _new_blocks(self, rows: int, positions: int) -> list[Block]:
        shape = self.shape
        return [
            Block(rows, positions, shape.kv_heads, shape.head_size, self._dtype, layer.device)
            for layer in self._model.layers
        ]


class Encoded:
    """An encoder-decoder and, for its slots, the keys and values of prompts and of answers.

    A row that starts at 0 holds a whole prompt: what the encoder reads, then the token that the
    decoder begins with. Every other row has one token of the decoder.
    """

    def __init__(self, model: T5, *, slots: int, capacity: int) -> None:
        self._model = model
        self._capacity = capacity = max(capacity, LARGEST_PADDING)
        self._spare = slots
        self.shape = model.shape
        self.device = model.devices.head
        sizes = (model.shape.heads, model.shape.head_size, model.dtype)
        places = [layer.device for layer in model.decoder]
        self._own = [Block(slots + 1, capacity, *sizes, device) for device in places]
        self._cross = [Block(slots + 1, capacity, *sizes, device) for device in places]
        self.rows = Rows(slots, self._own, self._cross)

    def evaluate(self, rows: Sequence[Row], check: Check) -> tuple[Tensor, list[int]]:
        _refuse_misfits(rows, self.rows, self._capacity)
        self.rows.gather([row.slot for row in rows])
        encoded = [self.rows.encoded[row.slot] or len(row.tokens) - 1 for row in rows]
        self._encode([row for row in rows if row.start == 0], check)
        spans = [
            Span(self.rows.of(row.slot), row.start + len(row.tokens) - 1 - length, row.tokens[-1:])
            for row, length in zip(rows, encoded, strict=True)
        ]
        places = order(spans)
        model = self._model
        batch = pack(
            [spans[place] for place in places],
            self._capacity,
            model.dtype,
            model.devices.embed,
            model.bias,
            self._spare,
        )
        read = [(spans[place].row, encoded[place]) for place in places]
        parts = decoding_parts(read, model.dtype, model.devices.embed)
        if len(batch.tokens) > len(rows):  # padded
            spare = (self._spare, self._spare + 1)
            parts.append(Part(len(rows), len(batch.tokens), *spare, length=1, mask=None))
        states = model.states(batch, self._own, self._cross, parts, check)
        for row, length in zip(rows, encoded, strict=True):
            self.rows.encoded[row.slot] = length
            self.rows.held[row.slot] = row.start + len(row.tokens)
        firsts = [0] * len(rows)
        for line, place in enumerate(places):
            firsts[place] = line
        return states, firsts

    def logits(self, states: Tensor) -> Tensor:
        return self._model.logits(states)

    def pooled(self, tokens: Sequence[int], chunk: int, between: Check) -> Tensor:
        prompts = [tokens, [0] * padding(len(tokens))]
        states = self._model.encode([prompt for prompt in prompts if prompt], between)
        return states[: len(tokens)].mean(dim=0, dtype=torch.float32).cpu()

    def _encode(self, rows: Sequence[Row], check: Check) -> None:
        if not rows:
            return
        prompts = [row.tokens[:-1] for row in rows]
        into = [self.rows.of(row.slot) for row in rows]
        if padded := padding(sum(map(len, prompts))):
            prompts, into = [*prompts, [0] * padded], [*into, self._spare]
        places: list[int] = []
        for row, prompt in zip(into, prompts, strict=True):
            places += range(row * self._capacity, row * self._capacity + len(prompt))
        states = self._model.encode(prompts, check)
        self._model.remember(states, torch.tensor(places, device=states.device), self._cross)


def _refuse_misfits(rows: Sequence[Row], held: Rows, capacity: int) -> None:
    for row in rows:
        if row.start != held.held[row.slot] or not row.tokens:
            raise ValueError(
                f"slot {row.slot} holds {held.held[row.slot]} tokens; a row of "
                f"{len(row.tokens)} cannot start at {row.start}"
            )
        if row.start + len(row.tokens) > capacity:
            raise ValueError(f"slot {row.slot} holds at most {capacity} tokens")
