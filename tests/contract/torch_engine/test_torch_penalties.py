"""The penalties of tokens that a text already has: as transformers and OpenAI define them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from drawn import CPU, draws, logits, penalised
from hypothesis import given, settings
from hypothesis import strategies as st

from open_llm_server.engine.base import Draw
from open_llm_server.engine.torch_penalties import apply_penalties
from open_llm_server.engine.torch_sampling import Sampler

pytestmark = pytest.mark.weights


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.lists(st.integers(0, 12), max_size=8)] * 2), min_size=1, max_size=5),
    draws,
    st.booleans(),
)
def test_penalties_of_beams(
    pasts: list[tuple[list[int], list[int]]], draw: Draw, logarithms: bool
) -> None:
    rows = logits(len(pasts), 13, 7)
    if logarithms:
        rows = rows.log_softmax(1)
    before = rows.clone()
    prompts, outputs = zip(*pasts, strict=True)
    found = apply_penalties(rows, prompts, outputs, draw)
    assert torch.equal(rows, before)
    for place, (prompt, output) in enumerate(pasts):
        wanted = penalised(rows[place : place + 1], replace(draw, prompt=prompt), output)
        torch.testing.assert_close(found[place : place + 1], wanted, atol=1e-5, rtol=1e-5)


def test_penalties_over_long_answers() -> None:
    """Greedy rows whose histories outgrow what was set aside, and of which one starts again."""
    size, steps = 40, 200
    batch = [
        Draw(frequency_penalty=0.11, presence_penalty=0.3),
        Draw(repetition_penalty=1.7, prompt=[5] * 100),
        Draw(),
    ]
    sampler = Sampler(3, size, CPU)
    past: list[list[int]] = [[], [], []]
    for step in range(steps):
        if step == steps // 2:
            batch[0], past[0] = replace(batch[0]), []
        rows = logits(3, size, step)
        for place, (token, _) in enumerate(sampler.choose(rows, [2, 0, 1], batch)):
            row = penalised(rows[place : place + 1], batch[place], past[place])
            assert row[0, token] >= row.max() - 1e-4
            past[place].append(token)
