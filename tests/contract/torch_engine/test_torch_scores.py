"""How the torch engine scores tokens: log-probabilities of the model as it is."""

from __future__ import annotations

import math

import pytest
from drawn import CPU, assert_scores, logits, true_score

from open_llm_server.engine.base import Draw
from open_llm_server.engine.torch_sampling import Sampler, scores

pytestmark = pytest.mark.weights


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(
    ("rows", "size", "top"), [(5, 11, 3), (5, 11, 50), (3, 2000, 0), (60, 30011, 5)]
)
def test_scores_are_log_probabilities(rows: int, size: int, top: int, coarse: bool) -> None:
    made = logits(rows, size, 2, coarse=coarse)
    made[1, 4:] = -math.inf
    targets = [(7 * row) % size for row in range(rows)]
    found = scores(made, targets, top)
    assert len(found) == rows
    for place in {0, 1, rows // 2, rows - 1}:
        assert_scores(found[place], true_score(made[place], targets[place], top))
    assert scores(made[:0], [], top) == []


def test_scores_of_the_choice_are_those_of_the_model() -> None:
    batch = [
        Draw(logprobs=2),
        Draw(temperature=1.9, top_k=7, repetition_penalty=3.0, seed=4, logprobs=5, prompt=[1, 2]),
        Draw(temperature=1.0),
        Draw(temperature=0.4, frequency_penalty=2.0, logprobs=0),
    ]
    sampler = Sampler(4, 700, CPU)
    for step in range(3):
        rows = logits(4, 700, step)
        for row, draw, (token, score) in zip(
            rows, batch, sampler.choose(rows, [0, 1, 2, 3], batch), strict=True
        ):
            assert (score is None) == (draw.logprobs is None)
            if score:
                assert_scores(score, true_score(row, token, draw.logprobs or 0))
