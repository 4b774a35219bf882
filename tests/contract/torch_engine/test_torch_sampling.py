"""How the torch engine chooses tokens: as transformers does, wherever a row stands."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from drawn import CPU, assert_scores, draws, logits, penalised
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from open_llm_server.engine.base import Draw, RowError
from open_llm_server.engine.torch_cuts import keys, uniform
from open_llm_server.engine.torch_sampling import Sampler

pytestmark = pytest.mark.weights

SLOTS = 8
HAIR = 1e-6
"""What float32 may shift a cut or a boundary by."""


def survivors(row: Tensor, draw: Draw) -> tuple[Tensor, npt.NDArray[np.float64]]:
    """A penalised row [1, V] after transformers' warpers, and the probabilities it leaves."""
    nothing = torch.empty(1, 0, dtype=torch.int64)
    warpers: list[Any] = [TemperatureLogitsWarper(draw.temperature)]
    if draw.top_k:
        warpers.append(TopKLogitsWarper(draw.top_k))
    if draw.top_p < 1.0:
        warpers.append(TopPLogitsWarper(draw.top_p))
    if draw.min_p > 0.0:
        warpers.append(MinPLogitsWarper(draw.min_p))
    for warper in warpers:
        row = warper(nothing, row)
    return row, row.double().softmax(1)[0].numpy()


def expected(row: Tensor, draw: Draw, chosen: Sequence[int], fraction: float) -> set[int]:
    """The tokens that the uniform number `fraction` may draw, boundaries being a hair wide.

    Where nothing but min-p cuts, tokens stand in the order of their ids; else the likeliest first,
    of equals the lower id first. Of equals on the edge of top-p any may survive in transformers:
    here it is the lowest ids.
    """
    row = penalised(row, draw, chosen)
    if draw.temperature == 0.0:
        return {int(row.argmax())}
    _, masses = survivors(row, draw)
    size = row.shape[1]
    order = np.arange(size)
    if 0 < draw.top_k < size or draw.top_p < 1.0:
        order = np.lexsort((order, -row[0].numpy()))
        masses = np.sort(masses)[::-1]
    sums = masses.cumsum()
    last = int(np.flatnonzero(masses)[-1])
    ends = np.searchsorted(sums, [fraction - HAIR, fraction + HAIR], side="right")
    return {int(order[place]) for place in range(ends[0], min(ends[1], last) + 1)}


def nearly(draw: Draw) -> Iterator[Draw]:
    """The draw, and those whose cuts differ by a hair."""
    for top_p, min_p in itertools.product((0.0, -HAIR, HAIR), repeat=2):
        yield replace(
            draw,
            top_p=min(1.0, max(0.0, draw.top_p + top_p)) if draw.top_p < 1 else 1.0,
            min_p=min(1.0, draw.min_p * (1 + min_p)),
        )


def check(token: int, row: Tensor, draw: Draw, chosen: Sequence[int]) -> None:
    number = np.array([len(chosen)], dtype=np.uint64)
    fraction = float(uniform(keys([draw.seed]), number)[0])
    assert any(token in expected(row, other, chosen, fraction) for other in nearly(draw))


batches = st.lists(draws, min_size=1, max_size=SLOTS)


@settings(max_examples=150, deadline=None)
@given(batches, st.sampled_from([7, 300, 3001, 20011]), st.integers(0, 2**32), st.booleans())
def test_tokens_are_those_of_transformers(
    batch: list[Draw], size: int, seed: int, coarse: bool
) -> None:
    sampler = Sampler(SLOTS, size, CPU)
    slots = list(range(len(batch)))[::-1]
    past: list[list[int]] = [[] for _ in batch]
    for step in range(3):
        rows = logits(len(batch), size, seed + step, coarse=coarse)
        before = rows.clone()
        found = sampler.choose(rows, slots, batch)
        assert torch.equal(rows, before)
        for place, (token, score) in enumerate(found):
            assert score is None
            check(token, before[place : place + 1], batch[place], past[place])
            past[place].append(token)


@pytest.mark.parametrize(
    "cut",
    [
        {"temperature": 0.7},
        {"temperature": 1.9, "min_p": 0.02},
        {"top_k": 20},
        {"top_k": 50, "top_p": 0.8, "min_p": 0.03, "temperature": 1.4},
        {"top_p": 0.5, "temperature": 0.5},
        {"top_p": 0.9, "temperature": 2.5},
        {"top_k": 2400, "top_p": 0.9},
    ],
    ids=str,
)
@pytest.mark.parametrize("coarse", [False, True])
def test_every_survivor_is_drawn_as_often_as_it_should(cut: dict[str, Any], coarse: bool) -> None:
    """One row with many seeds: the numbers cover [0, 1), so no survivor can be missing."""
    seeds, size = 256, 4099
    row = logits(1, size, 5, coarse=coarse)
    batch = [Draw(**{"temperature": 1.0, **cut}, seed=seed) for seed in range(seeds)]
    found = Sampler(seeds, size, CPU).choose(row.expand(seeds, -1), range(seeds), batch)
    for draw, (token, _) in zip(batch, found, strict=True):
        check(token, row, draw, [])
    _, masses = survivors(row, batch[0])
    assert set(np.flatnonzero(masses > 0.03)) <= {token for token, _ in found}


def test_top_p_shares_out_all_that_equals_the_kth() -> None:
    """More of them than a sampler looks at first."""
    row = torch.zeros(1, 400)
    row[0, -25:-5], row[0, -5:] = 1.0, 2.0
    batch = [Draw(temperature=1.0, top_k=30, top_p=0.1, seed=seed) for seed in range(64)]
    found = Sampler(64, 400, CPU).choose(row.expand(64, -1), range(64), batch)
    for draw, (token, _) in zip(batch, found, strict=True):
        check(token, row, draw, [])


@settings(max_examples=60, deadline=None)
@given(batches, st.sampled_from([30, 1700]), st.data())
def test_rows_are_independent(batch: list[Draw], size: int, data: st.DataObject) -> None:
    """Who is beside a row, in which order, in which slots, and when: no token changes."""
    steps = 5
    inputs = [logits(steps, size, place, coarse=place % 2 == 0) for place in range(len(batch))]

    def alone(place: int) -> list[int]:
        sampler = Sampler(1, size, CPU)
        rows = [row[None] for row in inputs[place]]
        return [sampler.choose(row, [0], [batch[place]])[0][0] for row in rows]

    together = Sampler(SLOTS, size, CPU)
    slots = data.draw(st.permutations(range(SLOTS)))
    done: list[list[int]] = [[] for _ in batch]
    while waiting := [place for place in range(len(batch)) if len(done[place]) < steps]:
        some = data.draw(st.lists(st.sampled_from(waiting), min_size=1, unique=True))
        rows = torch.stack([inputs[place][len(done[place])] for place in some])
        found = together.choose(
            rows, [slots[place] for place in some], [batch[place] for place in some]
        )
        for place, (token, _) in zip(some, found, strict=True):
            done[place].append(token)
    assert done == [alone(place) for place in range(len(batch))]


@pytest.mark.parametrize("size", [5, 512, 5003])
def test_greedy_takes_the_first_of_the_likeliest(size: int) -> None:
    rows = logits(6, size, 1, coarse=True)
    rows[3, size // 2 :] = rows.max() + 1
    rows[4, -1] = rows.max() + 1
    found = Sampler(6, size, CPU).choose(rows, range(6), [Draw()] * 6)
    assert [token for token, _ in found] == [int(row.numpy().argmax()) for row in rows]


WAYS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 2100},
    {"temperature": 1.0, "min_p": 0.1, "repetition_penalty": 1.5, "prompt": [1]},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, None])
def test_a_row_that_is_no_number_is_named(way: dict[str, Any], value: float | None) -> None:
    size = 2500
    batch = [Draw(**way, seed=seed) for seed in range(4)]
    good = logits(4, size, 3)
    bad = good.clone()
    if value is None:
        bad[2] = -math.inf
    else:
        bad[2, 1234] = value
        bad[3, 0] = math.nan
    sampler = Sampler(SLOTS, size, CPU)
    with pytest.raises(RowError, match="not a number") as caught:
        sampler.choose(bad, [7, 5, 3, 1], batch)
    assert caught.value.slot == 3
    whole = Sampler(SLOTS, size, CPU).choose(good, [7, 5, 3, 1], batch)
    assert sampler.choose(good, [7, 5, 3, 1], batch) == whole, "the failed step left a trace"


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_forbidden_tokens_are_never_drawn(way: dict[str, Any]) -> None:
    row = torch.full((1, 2500), -math.inf)
    row[0, [3, 2400]] = torch.tensor([1.0, 1.5])
    batch = [Draw(**way, seed=seed) for seed in range(32)]
    found = Sampler(32, 2500, CPU).choose(row.expand(32, -1), range(32), batch)
    assert {token for token, _ in found} == ({3, 2400} if way else {2400})


@pytest.mark.parametrize(
    "draw",
    [
        Draw(temperature=1e-300, seed=1),
        Draw(temperature=1e-5, seed=1),
        Draw(temperature=2.0, repetition_penalty=0.01, prompt=[0, 10**6]),
        Draw(temperature=2.0, frequency_penalty=-2.0, presence_penalty=2.0),
        Draw(temperature=2.0, top_k=1_000_000, top_p=1e-30, min_p=1e-30),
        Draw(temperature=2.0, top_p=0.0, min_p=1.0),
    ],
    ids=str,
)
def test_extreme_values_choose_a_token(draw: Draw) -> None:
    sampler = Sampler(1, 900, CPU)
    for seed in range(4):
        ((token, _),) = sampler.choose(logits(1, 900, seed, scale=30.0), [0], [draw])
        assert 0 <= token < 900


def test_a_new_draw_and_a_forgotten_slot_begin_anew() -> None:
    def fresh() -> Draw:
        return Draw(
            temperature=1.5, frequency_penalty=1.0, repetition_penalty=1.2, prompt=[2], seed=4
        )

    sampler, draw = Sampler(2, 60, CPU), fresh()

    def three(draw: Draw) -> list[int]:
        return [sampler.choose(logits(1, 60, step), [1], [draw])[0][0] for step in range(3)]

    first = three(draw)
    assert three(draw) != first
    assert three(fresh()) == first
    sampler.forget(1)
    sampler.forget(0)
    assert three(fresh()) == first
    assert Sampler(2, 60, CPU).choose(torch.empty(0, 60), [], []) == []


def test_the_past_belongs_to_the_slot() -> None:
    """The same draws in other slots: nothing has been drawn there yet."""
    batch = [Draw(temperature=2.0, seed=1), Draw(temperature=2.0, seed=2)]
    sampler, rows = Sampler(4, 5000, CPU), logits(2, 5000, 1)
    first = sampler.choose(rows, [0, 1], batch)
    assert sampler.choose(rows, [2, 3], batch) == first
    assert sampler.choose(rows, [2, 3], batch) != first


def test_zeros_of_either_sign_are_equal() -> None:
    rows = torch.full((SLOTS, 50), -1.0)
    rows[:, [2, 3, 4]] = torch.tensor([-0.0, 0.0, -0.0])
    batch = [Draw(temperature=1.0, top_k=3, top_p=0.3, seed=seed) for seed in range(SLOTS)]
    found = Sampler(SLOTS, 50, CPU).choose(rows, range(SLOTS), batch)
    assert {token for token, _ in found} == {2}


def test_the_generator_is_splitmix64() -> None:
    """The published first value for this seed; then how even the numbers are."""
    assert keys([1234567]).tolist() == [6457827717110365317]
    assert len(set(keys([0, 1, -1, 2**63 - 1, -(2**63)]).tolist())) == 5
    numbers = np.arange(4096, dtype=np.uint64)
    by_number = uniform(keys([3]), numbers)
    by_seed = uniform(keys(list(range(4096))), numbers[:1])
    for found in (by_number, by_seed):
        assert found.min() >= 0.0 and found.max() < 1.0
        assert np.abs(np.sort(found) - (numbers + 0.5) / 4096).max() < 0.03  # Kolmogorov, 4 sigma
    assert abs(np.corrcoef(by_number, by_seed)[0, 1]) < 0.06


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("size", [60, 5000, 50257])
def test_a_gpu_draws_the_same_tokens(size: int) -> None:
    batch = [
        Draw(**way, seed=seed, logprobs=3 if seed % 2 else None)
        for seed, way in enumerate([*WAYS, {"temperature": 3.0, "top_p": 0.97}])
    ]
    places = range(len(batch))
    gpu = torch.device("cuda", 0)
    here, there = Sampler(SLOTS, size, CPU), Sampler(SLOTS, size, gpu)
    for step in range(20):
        rows = logits(len(batch), size, step, coarse=step % 2 == 0)
        ours = here.choose(rows, places, batch)
        theirs = there.choose(rows.to(gpu), places, batch)
        assert [token for token, _ in ours] == [token for token, _ in theirs]
        for (_, wanted), (_, found) in zip(ours, theirs, strict=True):
            if wanted:
                assert found
                assert_scores(found, wanted)
    bad = rows.to(gpu)
    bad[1, 30] = math.nan
    with pytest.raises(RowError):
        there.choose(bad, places, batch)
