"""Penalties for tokens that a sequence holds already, on rows of logits.

Owns the formulas and, for each slot, which tokens they apply to. Must not know how a token is
chosen, nor when: `torch_sampling` and the beam search call it.

Tokens are kept as they came, repeats included, in one padded tensor: a step then costs the length
of the longest sequence, never the vocabulary. The padding is the id `V` (the vocabulary's size),
and rows are penalised in a copy with one column more, which takes what the padding brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .base import Draw


def repeats(draw: Draw) -> bool:
    """Whether the draw counts prompt and answer."""
    return draw.repetition_penalty != 1.0


def counts(draw: Draw) -> bool:
    """Whether the draw counts the answer alone."""
    return draw.frequency_penalty != 0.0 or draw.presence_penalty != 0.0


@dataclass(frozen=True)
class Penalties:
    """The penalties of some rows, each [n, 1] float32; a row may have neutral ones."""

    repetition: Tensor
    frequency: Tensor
    presence: Tensor

    @classmethod
    def of(cls, draws: Sequence[Draw], device: torch.device) -> Penalties:
        return cls(
            torch.tensor([[draw.repetition_penalty] for draw in draws], device=device),
            torch.tensor([[draw.frequency_penalty] for draw in draws], device=device),
            torch.tensor([[draw.presence_penalty] for draw in draws], device=device),
        )

    def change(self, padded: Tensor, seen: Tensor | None, chosen: Tensor | None) -> None:
        """Penalises `padded` [n, V + 1] in place.

        `seen` and `chosen` are tokens, [n, any length], padded with `V`; a token may come often.
        Repetition (Keskar et al., "CTRL", 2019, as transformers has it): a seen token's logit is
        divided if positive and multiplied otherwise. Then, as OpenAI defines them: frequency is
        subtracted once for each time that a token was chosen, presence once if it was at all.
        """
        if seen is not None:
            logits = padded.gather(1, seen)
            penalty = self.repetition.to(padded.dtype)
            logits = torch.where(logits < 0, logits * penalty, logits / penalty)
            padded.scatter_(1, seen, logits)
        if chosen is not None:
            logits = padded.gather(1, chosen) - self.presence.to(padded.dtype)
            padded.scatter_(1, chosen, logits)
            lower = -self.frequency.to(padded.dtype)
            padded.scatter_add_(1, chosen, lower.expand(chosen.shape))


class History:
    """Some slots' tokens on the device; nothing is allocated before the first `begin`."""

    def __init__(self, slots: int, vocabulary: int, device: torch.device) -> None:
        self._filler = vocabulary
        self._lengths = [0] * slots
        self._tokens = torch.empty((slots, 0), dtype=torch.int64, device=device)

    def begin(self, slot: int, tokens: Sequence[int]) -> None:
        """The slot holds `tokens` and nothing else; ids beyond the vocabulary do no harm."""
        distinct = np.unique(np.asarray(tokens, dtype=np.int64)).clip(max=self._filler)
        self._reserve(len(distinct))
        self._lengths[slot] = len(distinct)
        self._tokens[slot] = self._filler
        self._tokens[slot, : len(distinct)] = torch.from_numpy(distinct)

    def add(self, slots: Sequence[int], places: Tensor, tokens: Sequence[int]) -> None:
        """One token more for each of `slots`, which are `places` on the device."""
        lengths = [self._lengths[slot] for slot in slots]
        self._reserve(max(lengths) + 1)
        both = torch.tensor([lengths, list(tokens)], device=self._tokens.device)
        self._tokens[places, both[0]] = both[1]
        for slot in slots:
            self._lengths[slot] += 1

    def rows(self, slots: Sequence[int], places: Tensor) -> Tensor:
        """What `slots` hold: [n, length of the longest], padded."""
        longest = max(self._lengths[slot] for slot in slots)
        return self._tokens[:, :longest].index_select(0, places)

    def _reserve(self, length: int) -> None:
        slots, capacity = self._tokens.shape
        if length > capacity:
            wider = max(64, 2 * capacity, length)
            more = self._tokens.new_full((slots, wider - capacity), self._filler)
            self._tokens = torch.cat([self._tokens, more], 1)


def apply_penalties(
    logits: Tensor, prompts: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]], draw: Draw
) -> Tensor:
    """`logits` [k, V] after `draw`'s penalties, a row for each pair of `prompts` and `outputs`.

    Any floating dtype; log-probabilities will do as well. Gives `logits` itself back where the
    draw penalises nothing, and otherwise a new tensor.
    """
    if not repeats(draw) and not counts(draw):
        return logits
    size, device = logits.shape[1], logits.device
    padded = torch.nn.functional.pad(logits, (0, 1))
    pairs = zip(prompts, outputs, strict=True)
    seen = _pad([[*prompt, *output] for prompt, output in pairs], size, device)
    chosen = _pad(outputs, size, device)
    penalties = Penalties.of([draw] * len(logits), device)
    penalties.change(padded, seen if repeats(draw) else None, chosen if counts(draw) else None)
    return padded[:, :size].contiguous()


def _pad(sequences: Sequence[Sequence[int]], filler: int, device: torch.device) -> Tensor:
    padded = np.full((len(sequences), max(map(len, sequences), default=0)), filler)
    for row, tokens in zip(padded, sequences, strict=True):
        row[: len(tokens)] = np.minimum(tokens, filler)
    return torch.from_numpy(padded).to(device)
