"""How the llama.cpp engine chooses and scores tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from llama_engines import PROMPT, generate, logits

from open_llm_server.engine.base import Batch, Draw, Row
from open_llm_server.engine.llama_cpp import LlamaCppEngine
from open_llm_server.engine.llama_sampling import fold_seed

pytestmark = pytest.mark.weights


def test_greedy_takes_the_likeliest(engine: LlamaCppEngine) -> None:
    assert generate(engine, 1)[0] == int(logits(engine, PROMPT).argmax())


def test_scores_are_those_of_the_model(engine: LlamaCppEngine) -> None:
    expected = logits(engine, PROMPT)
    assert math.isclose(np.exp(expected).sum(), 1.0, rel_tol=1e-9)
    cold = Draw(temperature=1.9, top_k=7, repetition_penalty=3.0, seed=4, logprobs=5, prompt=PROMPT)
    (outcome,) = engine.step(Batch(rows=[Row(0, PROMPT, 0, cold)]))
    assert outcome.score
    assert outcome.token == outcome.score.token
    assert math.isclose(outcome.score.logprob, expected[outcome.score.token], abs_tol=1e-6)
    best = sorted(range(len(expected)), key=lambda token: (-expected[token], token))[:5]
    assert [token for token, _ in outcome.score.top] == best


def test_targets_score_a_prompt(engine: LlamaCppEngine) -> None:
    draw = Draw(prompt=PROMPT)
    row = Row(1, PROMPT, 0, draw, targets=PROMPT[1:], top=2)
    (outcome,) = engine.step(Batch(rows=[row]))
    assert outcome.token == generate(engine, 1)[0]
    assert [score.token for score in outcome.targets] == PROMPT[1:]
    for place, score in enumerate(outcome.targets):
        expected = logits(engine, PROMPT[: place + 1])
        assert math.isclose(score.logprob, expected[score.token], abs_tol=1e-4)
        assert score.top[0][0] == int(expected.argmax())


def test_targets_may_cover_a_chunk_whole(engine: LlamaCppEngine) -> None:
    whole = engine.step(Batch(rows=[Row(1, PROMPT, 0, targets=PROMPT[1:])]))[0].targets
    first = engine.step(Batch(rows=[Row(2, PROMPT[:3], 0, targets=PROMPT[1:4])]))[0]
    last = engine.step(Batch(rows=[Row(2, PROMPT[3:], 3, targets=PROMPT[4:])]))[0]
    assert first.token is None
    found = [*first.targets, *last.targets]
    assert [score.token for score in found] == [score.token for score in whole]
    assert np.allclose([s.logprob for s in found], [s.logprob for s in whole], atol=1e-4)


def test_a_seed_repeats_its_tokens_whatever_runs_beside(engine: LlamaCppEngine) -> None:
    def drawn(seed: int) -> list[int]:
        engine.forget(0)
        return generate(engine, 16, Draw(temperature=1.5, seed=seed, prompt=PROMPT))

    alone = drawn(7)
    assert alone != drawn(8)
    engine.forget(0)
    draws = [Draw(temperature=1.5, seed=seed) for seed in (9, 7)]
    rows = [Row(0, [1, 300], 0, draws[0]), Row(1, PROMPT, 0, draws[1])]
    found = []
    for _ in range(16):
        outcomes = engine.step(Batch(rows=rows))
        found.append(outcomes[1].token)
        rows = [
            Row(row.slot, [outcome.token or 0], row.start + len(row.tokens), row.draw)
            for row, outcome in zip(rows, outcomes, strict=True)
        ]
    assert found == alone


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 2, 2**32 - 1, 2**32, -1, 2**63 - 1, -(2**63)])
def test_any_seed_repeats(engine: LlamaCppEngine, seed: int) -> None:
    found = []
    for _ in range(2):
        engine.forget(0)
        found.append(generate(engine, 12, Draw(temperature=1.9, seed=seed)))
    assert found[0] == found[1]


def test_seeds_fold_apart() -> None:
    seeds = [0, 1, -1, 2**32 - 1, 2**32, 2**40, -(2**63), 2**63 - 1]
    assert len({fold_seed(seed) for seed in seeds}) == len(seeds)
    assert all(0 <= fold_seed(seed) < 2**32 - 1 for seed in seeds)


def test_cuts_keep_the_draw_within_the_likeliest(engine: LlamaCppEngine) -> None:
    expected = logits(engine, PROMPT)
    order = [int(token) for token in np.argsort(-expected)]

    def drawn(**values: Any) -> set[int]:
        found = set()
        for seed in range(24):
            engine.forget(0)
            found |= set(generate(engine, 1, Draw(temperature=2.0, seed=seed, **values)))
        return found

    assert drawn(top_k=1) == {order[0]}
    assert drawn(top_p=0.0) == {order[0]}
    assert drawn(min_p=1.0) == {order[0]}
    assert drawn(top_k=3) <= set(order[:3])
    assert len(drawn()) > 3


def test_penalties_do_what_their_formulas_say(engine: LlamaCppEngine) -> None:
    """Greedy choices under penalties, recomputed from the model's log-probabilities.

    Repetition divides logits, which log-probabilities only tell up to a constant; frequency and
    presence subtract, so they can be checked exactly.
    """
    draw = Draw(frequency_penalty=0.7, presence_penalty=0.4, prompt=PROMPT)
    found = generate(engine, 20, draw)
    counts: dict[int, int] = {}
    for place, token in enumerate(found):
        scores = logits(engine, [*PROMPT, *found[:place]])
        for seen, count in counts.items():
            scores[seen] -= 0.7 * count + 0.4
        assert token == int(scores.argmax())
        counts[token] = counts.get(token, 0) + 1
    assert len(set(found)) > len(set(generate(engine, 20, slot=1)))


def test_repetition_penalty_knows_the_prompt(engine: LlamaCppEngine) -> None:
    first = generate(engine, 1)[0]
    engine.forget(0)
    prompt = [*PROMPT[:-1], first, PROMPT[-1]]
    plain = generate(engine, 30, prompt=prompt)
    engine.forget(0)
    strict = generate(engine, 30, Draw(repetition_penalty=10.0, prompt=prompt), prompt=prompt)
    assert not set(strict) & set(prompt)
    assert len(set(strict)) == len(strict)
    assert len(set(plain)) < len(plain)


def test_extreme_values_choose_a_token(engine: LlamaCppEngine) -> None:
    for draw in (
        Draw(temperature=1e-300, seed=1),
        Draw(temperature=2.0, repetition_penalty=0.01, prompt=PROMPT),
        Draw(temperature=2.0, frequency_penalty=-2.0, presence_penalty=2.0),
        Draw(temperature=2.0, top_k=1_000_000, top_p=1e-30, min_p=1e-30),
    ):
        engine.forget(0)
        assert len(generate(engine, 4, draw)) == 4
