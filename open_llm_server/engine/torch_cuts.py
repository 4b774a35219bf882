"""The arithmetic of drawing tokens on tensors: which tokens survive the cuts, which one is drawn.

Owns the one order in which tokens stand (likeliest first, of equals the lower id), the cuts on it,
the inverse of a row's cumulative mass, and the uniform numbers. Keeps no state, and must not know
slots, draws or penalties. Tensors are rows by tokens; `V` is the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

GROUP = 256
"""Tokens of which one maximum is taken first when looking for a row's highest."""
BLOCK = 512
"""Tokens whose mass is added up first when drawing from a whole row."""
_GAMMA = 0x9E3779B97F4A7C15
_MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output function: a bijection of 64 bits that scatters neighbours.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014),
    with Stafford's thirteenth mixer.
    """
    for shift, factor in _MIXERS:
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    mixed: npt.NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed


def keys(seeds: list[int]) -> npt.NDArray[np.uint64]:
    """One generator's key for each seed (any integer, taken modulo 2⁶⁴)."""
    folded = np.array([seed % 2**64 for seed in seeds], dtype=np.uint64)
    return mix(folded + np.uint64(_GAMMA))


def uniform(
    keys: npt.NDArray[np.uint64], numbers: npt.NDArray[np.uint64]
) -> npt.NDArray[np.float64]:
    """The uniform number in [0, 1) that `numbers[i]` counts under `keys[i]`.

    SplitMix64 read as a counter-based generator: no state, so neither the batch nor the device
    nor what was drawn before has a say.
    """
    bits = mix(keys + (numbers + np.uint64(1)) * np.uint64(_GAMMA)) >> np.uint64(11)
    fractions: npt.NDArray[np.float64] = bits.astype(np.float64) * 2.0**-53
    return fractions


class Scratch:
    """Memory used again in every step: fresh pages cost more than the arithmetic on them."""

    def __init__(self, device: torch.device) -> None:
        self._flat = torch.empty(0, device=device)

    def take(self, rows: int, columns: int) -> Tensor:
        """[rows, columns] float32 of any content, valid until the next `take`."""
        if self._flat.numel() < rows * columns:
            self._flat = torch.empty(rows * columns, device=self._flat.device)
        return self._flat[: rows * columns].view(rows, columns)


def highest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's highest value and its place, the first of equals; both [n, 1]. NaN is highest."""
    size = logits.shape[1]
    if logits.device.type != "cpu" or size < 2 * GROUP:
        places = logits.argmax(1, keepdim=True)
        return logits.gather(1, places), places
    # On CPUs maxima are vectorised, and the search for their places is not.
    groups = size // GROUP
    even = logits[:, : groups * GROUP].view(-1, groups, GROUP)
    best = even.amax(2).argmax(1, keepdim=True)
    inside = even.gather(1, best[:, :, None].expand(-1, -1, GROUP)).squeeze(1).argmax(1, True)
    places = best * GROUP + inside
    if groups * GROUP < size:
        rest = logits[:, groups * GROUP :].argmax(1, keepdim=True) + groups * GROUP
        both = torch.cat([places, rest], 1)
        places = both.gather(1, logits.gather(1, both).argmax(1, keepdim=True))
    return logits.gather(1, places), places


def leaders(logits: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The `most` highest of each row and their ids, in the one order; both [n, most].

    Of those that equal the last one, some may be left out in favour of higher ids.
    """
    size, step = logits.shape[1], 16
    groups = size // step
    if logits.device.type != "cpu" or groups < 4 * most:
        found = torch.topk(logits, most, 1, sorted=False)
        return ordered(found.values, found.indices)
    # The m highest lie in the m groups with the highest maxima: every member of another group is
    # below m maxima. Groups stride through the row, so that their maxima are vectorised.
    even = logits[:, : groups * step].view(-1, step, groups)
    best = torch.topk(even.amax(1), most, 1, sorted=False).indices
    strides = torch.arange(0, groups * step, groups)
    ids = (best[:, None, :] + strides[:, None]).flatten(1)
    if groups * step < size:
        rest = torch.arange(groups * step, size).expand(len(logits), -1)
        ids = torch.cat([ids, rest], 1)
    found = torch.topk(logits.gather(1, ids), most, 1, sorted=False)
    return ordered(found.values, ids.gather(1, found.indices))


def ordered(values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """float32 `values` and their `ids`, each row sorted by value downwards, then by id."""
    bits = (values + 0.0).view(torch.int32)  # adding makes -0 the 0 that it equals
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    order = ((rising.long() << 32) - ids).argsort(1, descending=True)
    return values.gather(1, order), ids.gather(1, order)


def weights(logits: Tensor, peaks: Tensor, temperatures: Tensor | None, scratch: Scratch) -> Tensor:
    """[n, V'] float32: exp((logit - peak) / temperature); V' is V rounded up to whole blocks, with
    zeros. `peaks` and `temperatures` are [n, 1], the latter `None` where all are 1."""
    rows, size = logits.shape
    padded = scratch.take(rows, -(-size // BLOCK) * BLOCK)
    padded[:, size:] = 0.0
    mass = padded[:, :size]
    torch.sub(logits, peaks, out=mass)
    if temperatures is not None:
        mass.div_(temperatures)
    mass.exp_()
    return padded


def invert(sums: Tensor, whole: Tensor, at: Tensor) -> Tensor:
    """Where `sums`, each row's cumulative mass [n, m], passes the fraction `at` of `whole`.

    `whole` is one of the row's sums, above 0; it and `at` (in [0, 1]) are [n, 1], and so are the
    places. A place always has a mass of its own, and is not past that of `whole`.
    """
    found = torch.searchsorted(sums, at * whole, right=True)
    last = torch.searchsorted(sums, whole.contiguous())
    # The bound is for rows that are no numbers: their place is never used, but it is looked up.
    return torch.minimum(found, last).clamp_(max=sums.shape[1] - 1)


def draw_whole(mass: Tensor, at: Tensor) -> Tensor:
    """Draws from `weights` without sorting: the token at which, in the order of ids, the fraction
    `at` of the row's mass is reached; [n, 1]."""
    blocks = mass.view(len(mass), -1, BLOCK)
    sums = blocks.sum(2).to(at.dtype).cumsum(1)
    block = invert(sums, sums[:, -1:], at)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK)).squeeze(1)
    reached = sums.gather(1, block)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    rest = ((at * sums[:, -1:] - before) / (reached - before)).clamp(0.0, 1.0)
    within = inside.to(at.dtype).cumsum(1)
    return block * BLOCK + invert(within, within[:, -1:], rest)


@dataclass(frozen=True)
class Cuts:
    """What survives, row by row; every tensor is [n, 1]."""

    temperature: Tensor
    top_k: Tensor
    """int64; the vocabulary's size where nothing is cut."""
    top_p: Tensor
    """Above 1 where nothing is cut."""
    min_p: Tensor

    def row(self, place: int) -> Cuts:
        one = slice(place, place + 1)
        return Cuts(self.temperature[one], self.top_k[one], self.top_p[one], self.min_p[one])


def places(
    values: Tensor, cuts: Cuts, at: Tensor, total: Tensor | None, *, whole: bool
) -> tuple[Tensor, Tensor]:
    """Where in `values`, each row's highest logits downwards, the drawn token stands.

    `total` is the mass of the row that top-p shares out, in units of the likeliest token's mass;
    `None`: what top-k leaves of `values`. Second comes whether the survivors are certain to be
    among `values`, with all that equal them and all that top-p shares out; always so if `values` is
    the `whole` row. Both [n, 1].

    The cuts are those of transformers' logits warpers of the same names: top-k keeps what equals
    the k-th, top-p what has less than its share above it, min-p what is not below its share of the
    likeliest.
    """
    # Every cut leaves a prefix, so the shortest is what survives.
    mass = ((values - values[:, :1]) / cuts.temperature.float()).exp_()
    sums = mass.cumsum(1, dtype=at.dtype)
    at_kth = (cuts.top_k - 1).clamp(max=values.shape[1] - 1)
    kth = values.gather(1, at_kth)
    by_top_k = (values >= kth).sum(1, keepdim=True)
    of_top_k = total is None
    if total is None:
        total = sums.gather(1, by_top_k.clamp(min=1) - 1)
    by_top_p = torch.searchsorted(sums, cuts.top_p * total) + 1
    floor = cuts.min_p.clamp(min=torch.finfo(torch.float32).tiny)
    by_min_p = (mass >= floor).sum(1, keepdim=True)
    last = torch.minimum(torch.minimum(by_top_k, by_top_p), by_min_p).clamp(min=1) - 1
    found = invert(sums, sums.gather(1, last), at)
    if whole:
        return found, torch.ones_like(found, dtype=torch.bool)
    edge = values.gather(1, last)
    if of_top_k:
        # What equals the k-th counts in the mass that top-p shares out, even if it is cut off then.
        counts = (cuts.top_p < 1) & (mass.gather(1, at_kth) > 0)
        edge = torch.where(counts, kth, edge)
    return found, edge > values[:, -1:]


def draw_sorted(row: Tensor, cuts: Cuts, at: Tensor) -> int:
    """Draws from a whole row [V] by sorting its values: slow, and always right."""
    if row.device.type == "cpu":  # numpy's sort is vectorised, and ids are not needed yet
        values = torch.from_numpy(np.sort(row.numpy())).flip(0)
    else:
        values = row.sort(descending=True).values
    found, _ = places(values[None], cuts, at, None, whole=True)
    value = values[found[0, 0]]
    equals = (row == value).nonzero()
    return int(equals[found[0, 0] - (values > value).sum()])
