"""One beam search as a state machine: logits in, the tokens to evaluate next out.

Owns which beams live, which hypotheses are complete, and when a search is over. Knows no model,
no cache and no slot: whoever drives it evaluates the tokens, so that searches of several callers
can share one batch.

The rules are those of transformers' `generate(num_beams=k, do_sample=False)`, as of 5.23, with
which its results agree: penalties act on log-probabilities; a step looks at `end tokens + 1` times
as many candidates as there are beams, so that enough of them go on; only the likeliest `beams` of
these may complete; a complete hypothesis is ranked by its summed log-probability over its length
(end token included) to the power of `length_penalty`; and the search is over when as many are
complete as there are beams and the best live beam, at its present length, would not rank above the
worst of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Draw, Hypothesis
from .torch_penalties import apply_penalties

IMPOSSIBLE = -1e9
"""Added to a log-probability, as transformers does: below all others and still a number."""


@dataclass(frozen=True, slots=True)
class Advance:
    """The search goes on: evaluate `tokens[i]` as the next token of beam i."""

    tokens: list[int]
    parents: list[int]
    """The row of the last logits, and so the cache, that beam i continues. After the first
    logits, which are one row, always 0."""


class BeamSearch:
    """The search for the answers to one prompt, `beams` wide, of which the `best` are wanted.

    `start` are the tokens that the decoder began with; penalties count them as the prompt. Of
    `draw` only the penalties act: a beam search draws nothing. `vocabulary` is the length of a row
    of logits. `early_stopping`: end as soon as `beams` hypotheses are complete.

    Raises ValueError when `best` is not in 1 … `beams`, or `max_tokens` is below 1.
    """

    def __init__(
        self,
        *,
        beams: int,
        best: int,
        end_tokens: frozenset[int],
        max_tokens: int,
        vocabulary: int,
        start: Sequence[int],
        draw: Draw,
        length_penalty: float = 1.0,
        early_stopping: bool = False,
    ) -> None:
        if not 1 <= best <= beams:
            raise ValueError(f"the {best} best of {beams} beams: from 1 to {beams} can be had")
        if max_tokens < 1:
            raise ValueError("a beam search makes one token at least")
        self._beams = beams
        self._best = best
        self._end_tokens = end_tokens
        self._max_tokens = max_tokens
        self._vocabulary = vocabulary
        self._start = tuple(start)
        self._draw = draw
        self._length_penalty = length_penalty
        self._early_stopping = early_stopping
        # More candidates than can end, so that `beams` are left to go on.
        self._looked_at = min(max(2, 1 + len(end_tokens)) * beams, beams * vocabulary)
        self._live: list[tuple[int, ...]] = [()] * beams
        # All beams begin alike: one of them alone counts, or all would find the same tokens.
        self._scores = torch.tensor([0.0] + [IMPOSSIBLE] * (beams - 1))
        self._complete: list[Hypothesis] = []
        self._over = False

    @property
    def over(self) -> bool:
        """Whether there is nothing left to evaluate."""
        return self._over

    @property
    def outputs(self) -> Sequence[tuple[int, ...]]:
        """The live beams' new tokens, likeliest first; meaningless once the search is over."""
        return tuple(self._live)

    def advance(self, logits: Tensor) -> Advance | None:
        """Takes one step; `None`: the search is over, see `best`.

        `logits` are float32 and may be on any device: [1, vocabulary] after the start tokens,
        then [beams, vocabulary], row i after beam i's last token.

        Raises ArithmeticError when some of them are not numbers, and ValueError for logits of
        another shape or after the end.
        """
        rows = len(logits)
        expected = (self._beams if self._live[0] else 1, self._vocabulary)
        if self._over or logits.shape != expected:
            asked = "nothing: the search is over" if self._over else f"logits of shape {expected}"
            raise ValueError(f"the search wants {asked}, not shape {tuple(logits.shape)}")
        scores, places = self._candidates(logits)
        parents = [place // self._vocabulary % rows for place in places]
        tokens = [place % self._vocabulary for place in places]
        outputs = [
            (*self._live[parent], token) for parent, token in zip(parents, tokens, strict=True)
        ]
        length = len(outputs[0])
        ended = [token in self._end_tokens for token in tokens]
        last = length == self._max_tokens
        ranks = scores / length**self._length_penalty
        self._collect(outputs, ranks, ended, last=last)
        # The candidates come likeliest first, and so do those of them that go on.
        chosen = [i for i, end in enumerate(ended) if not end][: self._beams]
        self._over = last or not chosen or self._settled(ranks[chosen[0]])
        if self._over:
            return None
        self._live = [outputs[i] for i in chosen]
        self._scores = scores[chosen]
        return Advance([tokens[i] for i in chosen], [parents[i] for i in chosen])

    def best(self) -> list[Hypothesis]:
        """The best complete hypotheses, first the one that ranks highest.

        As many as asked for once the search is over, fewer before.
        """
        return self._complete[: self._best]

    def _candidates(self, logits: Tensor) -> tuple[Tensor, list[int]]:
        """Summed log-probabilities [m], on the CPU, of the likeliest continuations, descending,
        and their places in [beams * vocabulary]."""
        logprobs = torch.log_softmax(logits, dim=-1)
        prompts, outputs = [self._start] * len(logits), self._live[: len(logits)]
        logprobs = apply_penalties(logprobs, prompts, outputs, self._draw)
        # At the first step one row stands for all beams.
        summed = logprobs + self._scores.to(logits.device)[:, None]
        top, places = torch.topk(summed.view(-1), self._looked_at)
        scores = top.cpu()
        # NaN, which one bad logit makes of its whole row, comes out above all numbers.
        if scores[0].isnan():
            raise ArithmeticError("the model's output is not a number")
        return scores, places.tolist()

    def _collect(
        self, outputs: list[tuple[int, ...]], ranks: Tensor, ended: list[bool], *, last: bool
    ) -> None:
        """Keeps the best of the complete hypotheses, old and new."""
        scores = ranks.tolist()
        new = [
            Hypothesis(outputs[i], scores[i], ended[i])
            for i in range(self._beams)
            if last or ended[i]
        ]
        if new:
            # A stable sort: of two that rank alike, the earlier comes first.
            ranked = sorted(self._complete + new, key=lambda one: one.score, reverse=True)
            self._complete = ranked[: self._beams]

    def _settled(self, likeliest: Tensor) -> bool:
        """Whether the live beams, the best of which ranks `likeliest`, are given up."""
        if len(self._complete) < self._beams:
            return False
        return self._early_stopping or likeliest.item() <= self._complete[-1].score
