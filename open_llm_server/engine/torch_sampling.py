"""Chooses every row's next token from a batch of logits, each row in its own way, and scores them.

Owns what the sampler remembers of each slot, and which rows take which way. Must not know requests,
models, or why a row is there. The order is transformers': repetition penalty, frequency and
presence penalty, temperature, top-k, top-p, min-p, draw. (llama.cpp's, in `llama_sampling`, cuts
before it applies the temperature: the same settings keep other tokens there.)

A row's token depends on its own logits, draw and past alone, never on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from .base import Draw, RowError, Score
from .torch_cuts import (
    Scratch,
    draw_sorted,
    draw_whole,
    highest,
    leaders,
    places,
    uniform,
    weights,
)
from .torch_penalties import History, counts, repeats
from .torch_plan import MARGIN, Group, Penalised, Plan, State, Way, taking, way_of

CPU_CHUNK, GPU_CHUNK = 2**20, 2**26
"""Logits turned into masses at a time: what stays in a CPU's cache, and what a GPU can spare."""
_BROKEN, _UNSURE = -1, -2


class Sampler:
    """The choice of tokens for an engine with `slots` slots and `vocabulary` logits a row."""

    def __init__(self, slots: int, vocabulary: int, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._device = device
        self._states: dict[int, State] = {}
        self._seen = History(slots, vocabulary, device)
        self._chosen = History(slots, vocabulary, device)
        self._plan: Plan | None = None
        self._padded = Scratch(device)
        self._mass = Scratch(device)

    def forget(self, slot: int) -> None:
        """Drops what is known of the slot: its draw begins anew when it comes again."""
        self._states.pop(slot, None)
        self._plan = None

    @torch.inference_mode()
    def choose(
        self, logits: Tensor, slots: Sequence[int], draws: Sequence[Draw]
    ) -> list[tuple[int, Score | None]]:
        """One token for each row of `logits` [n, V] float32, which stay as they are.

        Row i belongs to `slots[i]` (no slot twice) and is drawn as `draws[i]` says; a slot's past
        begins anew when its draw is another object than before. Scores come where a draw asks for
        log-probabilities.

        Raises RowError for the first row whose highest logit is not a finite number; no row counts
        as chosen then.
        """
        if not slots:
            return []
        plan = self._plan
        if plan is None or not plan.is_for(slots, draws):
            plan = self._plan = self._arrange(slots, draws)
        padded = self._penalise(plan.penalised, logits) if plan.penalised else logits
        inputs = [(padded if group.penalised else logits)[group.take] for group in plan.groups]
        numbers = [self._numbers(group) for group in plan.groups]
        drawn = [self._draw(*parts) for parts in zip(plan.groups, inputs, numbers, strict=True)]
        found = (drawn[0] if len(drawn) == 1 else torch.cat(drawn)).squeeze(1).tolist()
        tokens = [0] * len(slots)
        for row, token in zip(plan.order, found, strict=True):
            tokens[row] = token
        if _BROKEN in tokens:
            raise RowError(slots[tokens.index(_BROKEN)], "the model's output is not a number")
        for group, rows, at in zip(plan.groups, inputs, numbers, strict=True):
            for place, row in enumerate(group.rows):
                if tokens[row] == _UNSURE:
                    tokens[row] = draw_sorted(rows[place], group.cuts.row(place), at[place, None])
        self._remember(plan, tokens)
        return list(zip(tokens, _choice_scores(logits, tokens, draws, plan.asked), strict=True))

    def _arrange(self, slots: Sequence[int], draws: Sequence[Draw]) -> Plan:
        """What stays the same while the same draws are stepped."""
        for slot, draw in zip(slots, draws, strict=True):
            known = self._states.get(slot)
            if known is None or known.draw is not draw:
                self._states[slot] = State(draw)
                if repeats(draw) or counts(draw):
                    self._seen.begin(slot, draw.prompt if repeats(draw) else ())
                    self._chosen.begin(slot, ())
        ways = [way_of(draw, self._vocabulary) for draw in draws]
        changed = [repeats(draw) or counts(draw) for draw in draws]
        order = sorted(range(len(slots)), key=lambda row: (changed[row], ways[row], row))
        penalised = [row for row in order if changed[row]]
        lines = {row: line for line, row in enumerate(penalised)}
        groups = []
        for kind in sorted(set(zip(changed, ways, strict=True))):
            rows = [row for row in order if (changed[row], ways[row]) == kind]
            take = taking([lines.get(row, row) for row in rows], self._device)
            states = [self._states[slots[row]] for row in rows]
            groups.append(Group.of(kind, rows, take, states, self._vocabulary, self._device))
        return Plan(
            slots=tuple(slots),
            draws=tuple(draws),
            states=[self._states[slot] for slot in slots],
            order=order,
            groups=groups,
            penalised=Penalised.of(penalised, slots, draws, self._device) if penalised else None,
            asked=[row for row, draw in enumerate(draws) if draw.logprobs is not None],
        )

    def _penalise(self, those: Penalised, logits: Tensor) -> Tensor:
        """The penalised rows' logits in their plan's order: a view [r, V] of the padded copy."""
        padded = self._padded.take(len(those.slots), self._vocabulary + 1)
        padded[:, : self._vocabulary] = logits[those.take]
        padded[:, self._vocabulary] = 0.0
        seen = self._seen.rows(those.slots, those.places) if those.repeating else None
        chosen = self._chosen.rows(those.slots, those.places) if those.counting else None
        those.penalties.change(padded, seen, chosen)
        return padded[:, : self._vocabulary]

    def _numbers(self, group: Group) -> Tensor:
        """The uniform numbers [g, 1] that decide this step; none for greedy rows."""
        if group.way is Way.GREEDY:
            return torch.empty(0, 1)
        drawn = np.array([state.drawn for state in group.states], dtype=np.uint64)
        numbers = torch.from_numpy(uniform(group.keys, drawn))
        return numbers.to(group.cuts.temperature.dtype).to(self._device)[:, None]

    def _draw(self, group: Group, logits: Tensor, at: Tensor) -> Tensor:
        """The group's tokens [g, 1]; `_BROKEN` and `_UNSURE` where there is none, or none yet."""
        if group.way is Way.GREEDY:
            peaks, tokens = highest(logits)
        elif group.way is Way.WHOLE:
            peaks = logits.amax(1, keepdim=True)
            tokens = torch.cat(
                [draw_whole(mass, at[some]) for some, mass in self._masses(group, logits, peaks)]
            )
        elif group.way is Way.SORTED:
            peaks = logits.amax(1, keepdim=True)
            tokens = torch.full_like(peaks, _UNSURE, dtype=torch.int64)
        else:
            values, ids = leaders(logits, group.most)
            peaks = values.amax(1, keepdim=True)
            total = None
            if group.way is Way.NUCLEUS:
                masses = self._masses(group, logits, peaks)
                total = torch.cat([mass.sum(1, keepdim=True) for _, mass in masses])
            whole = group.most == self._vocabulary
            found, sure = places(values, group.cuts, at, total, whole=whole)
            tokens = torch.where(sure, ids.gather(1, found), _UNSURE)
        return torch.where(peaks.isfinite(), tokens, _BROKEN)

    def _masses(
        self, group: Group, logits: Tensor, peaks: Tensor
    ) -> Iterator[tuple[slice, Tensor]]:
        """Some rows after others and their masses, good until the next."""
        chunk = CPU_CHUNK if self._device.type == "cpu" else GPU_CHUNK
        step = max(1, chunk // self._vocabulary)
        for start in range(0, len(logits), step):
            some = slice(start, start + step)
            heat = None if group.temperatures is None else group.temperatures[some]
            mass = weights(logits[some], peaks[some], heat, self._mass)
            if group.floors is not None:
                mass.masked_fill_(mass < group.floors[some], 0.0)
            yield some, mass

    def _remember(self, plan: Plan, tokens: Sequence[int]) -> None:
        for state in plan.states:
            state.drawn += 1
        if plan.penalised:
            slots, places = plan.penalised.slots, plan.penalised.places
            chosen = [tokens[row] for row in plan.penalised.rows]
            if plan.penalised.repeating:
                self._seen.add(slots, places, chosen)
            if plan.penalised.counting:
                self._chosen.add(slots, places, chosen)


def _choice_scores(
    logits: Tensor, tokens: Sequence[int], draws: Sequence[Draw], asked: list[int]
) -> list[Score | None]:
    found: list[Score | None] = [None] * len(tokens)
    if asked:
        tops = [draws[row].logprobs or 0 for row in asked]
        rows = logits[taking(asked, logits.device)]
        scored = scores(rows, [tokens[row] for row in asked], max(tops))
        for row, top, score in zip(asked, tops, scored, strict=True):
            found[row] = Score(score.token, score.logprob, score.top[:top])
    return found


@torch.inference_mode()
def scores(logits: Tensor, targets: Sequence[int], top: int) -> list[Score]:
    """Log-probabilities of `targets[i]` in row i of `logits` [m, V], and of the `top` likeliest.

    The likeliest come in order, of equals the lower id first. float32 within, a few rows at a
    time, so that memory does not double; not-a-number where the logits are.
    """
    chunk = CPU_CHUNK if logits.device.type == "cpu" else GPU_CHUNK
    step = max(1, chunk // logits.shape[1])
    found: list[Score] = []
    for start in range(0, len(targets), step):
        some = slice(start, start + step)
        found += _scores(logits[some].float(), list(targets[some]), min(top, logits.shape[1]))
    return found


def _scores(logits: Tensor, targets: list[int], top: int) -> list[Score]:
    columns = torch.tensor(targets, device=logits.device)[:, None]
    values, ids = logits.gather(1, columns), columns
    most = min(top + MARGIN, logits.shape[1])
    if top:
        likeliest, names = leaders(logits, most)
        values, ids = torch.cat([values, likeliest], 1), torch.cat([ids, names], 1)
    values -= logits.logsumexp(1, keepdim=True)
    # Both in one transfer: a float32's bits travel as an integer.
    numbers, packed = torch.stack([values.view(torch.int32), ids.int()]).cpu()
    found = []
    for row, (logprobs, names) in enumerate(
        zip(numbers.view(torch.float32).tolist(), packed.tolist(), strict=True)
    ):
        if top and most < logits.shape[1] and logprobs[top] == logprobs[-1]:
            # Equals of the last one may be missing among the candidates.
            names[1:] = logits[row].sort(descending=True, stable=True).indices[:top].tolist()
        alternatives = list(zip(names[1 : top + 1], logprobs[1 : top + 1], strict=True))
        found.append(Score(names[0], logprobs[0], alternatives))
    return found
