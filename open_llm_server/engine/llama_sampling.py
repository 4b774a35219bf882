"""Chooses one sequence's next token from its logits, and scores tokens.

Penalties and greedy choice are numpy on the few logits that they touch; cuts, temperature and the
draw are llama.cpp's own samplers, in its order: penalties, top-k, top-p, min-p, temperature.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from .base import Draw, Score
from .llama_native import brief, native

Logits = npt.NDArray[np.float32]

COLDEST = 1e-5
"""Below this temperature the likeliest token is certain, and dividing by it could overflow."""
_RANDOM_SEED = 0xFFFFFFFF  # llama.cpp draws a seed of its own for this one

_sample = brief("llama_sampler_sample")
_free = brief("llama_sampler_free")


class Sampler:
    """The choice of one sequence's tokens, with what has been chosen so far."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self._chain = None if draw.temperature < COLDEST else _chain(draw)
        self._repeats = _Seen(draw.prompt) if draw.repetition_penalty != 1.0 else None
        counted = draw.frequency_penalty or draw.presence_penalty
        self._chosen = _Seen(()) if counted else None
        self._plain = self._chain is None and not (self._repeats or self._chosen)

    def choose(self, context: Any, index: int, logits: Logits) -> int:
        """The next token after batch position `index` of `context`, whose logits are `logits`.

        Overwrites logits that penalties change.
        """
        if self._plain:
            return int(logits.argmax())
        self._penalise(logits)
        if self._chain is None:
            token = int(logits.argmax())
        else:
            token = _sample(self._chain, context, index)
        if self._repeats:
            self._repeats.add(token)
        if self._chosen:
            self._chosen.add(token)
        return token

    def close(self) -> None:
        if self._chain is not None:
            _free(self._chain)
            self._chain = None

    def _penalise(self, logits: Logits) -> None:
        draw = self.draw
        if self._repeats:
            ids = self._repeats.ids
            seen = logits[ids]
            penalty = np.float32(draw.repetition_penalty)
            logits[ids] = np.where(seen <= 0, seen * penalty, seen / penalty)
        if self._chosen:
            counts = self._chosen.counts
            logits[self._chosen.ids] -= counts * np.float32(draw.frequency_penalty) + np.float32(
                draw.presence_penalty
            )


class _Seen:
    """Distinct tokens, and how often each came, in arrays that grow by doubling."""

    def __init__(self, tokens: Any) -> None:
        distinct, counts = np.unique(np.asarray(tokens, dtype=np.int64), return_counts=True)
        self._size = len(distinct)
        self._ids = np.resize(distinct, max(64, 2 * self._size))
        self._counts = np.resize(counts, len(self._ids)).astype(np.float32)
        self._places = {int(token): place for place, token in enumerate(distinct)}

    def __len__(self) -> int:
        return max(1, self._size)  # true even while empty

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        return self._ids[: self._size]

    @property
    def counts(self) -> npt.NDArray[np.float32]:
        return self._counts[: self._size]

    def add(self, token: int) -> None:
        place = self._places.get(token)
        if place is not None:
            self._counts[place] += 1
            return
        if self._size == len(self._ids):
            self._ids = np.resize(self._ids, 2 * self._size)
            self._counts = np.resize(self._counts, 2 * self._size)
        self._places[token] = self._size
        self._ids[self._size], self._counts[self._size] = token, 1
        self._size += 1


def _chain(draw: Draw) -> Any:
    parameters = native.llama_sampler_chain_default_params()
    parameters.no_perf = True
    chain = native.llama_sampler_chain_init(parameters)
    parts = []
    if draw.top_k:
        parts.append(native.llama_sampler_init_top_k(draw.top_k))
    if draw.top_p < 1.0:
        parts.append(native.llama_sampler_init_top_p(draw.top_p, 1))
    if draw.min_p > 0.0:
        parts.append(native.llama_sampler_init_min_p(draw.min_p, 1))
    parts.append(native.llama_sampler_init_temp(draw.temperature))
    parts.append(native.llama_sampler_init_dist(fold_seed(draw.seed)))
    for part in parts:
        native.llama_sampler_chain_add(chain, part)
    return chain


def fold_seed(seed: int) -> int:
    """A seed of 64 bits as one of llama.cpp's 32; small ones stay what they are."""
    if not 0 <= seed < _RANDOM_SEED:
        seed = zlib.crc32(seed.to_bytes(16, "little", signed=True))
    return min(seed, _RANDOM_SEED - 1)


def score(logits: Logits, token: int, top: int) -> Score:
    """`token`'s log-probability among `logits`, and those of the `top` likeliest tokens."""
    exact = logits.astype(np.float64)
    highest = exact.max()
    exact -= highest + np.log(np.exp(exact - highest).sum())
    return Score(token, float(exact[token]), likeliest(exact, top))


def likeliest(values: npt.NDArray[np.float64], top: int) -> list[tuple[int, float]]:
    """The `top` highest of `values` with their places, highest first; of equals the first."""
    if top <= 0:
        return []
    top = min(top, len(values))
    threshold = np.partition(values, -top)[-top]
    found = np.flatnonzero(values >= threshold)
    order = np.argsort(-values[found], kind="stable")[:top]
    return [(int(place), float(values[place])) for place in found[order]]
