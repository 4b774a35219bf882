"""examples/own_family: its engine draws as the protocol says (`engine.base.Draw`)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import load

from open_llm_server.engine.base import Batch, Draw, Row

FILE = Path(__file__).resolve().parents[2] / "examples" / "own_family" / "olm_markov" / "engine.py"
A, B, C = b"abc"


MODULE = load(FILE, "olm_markov_engine")
LIKELY = Counter({A: 6, B: 3, C: 1})


def choose(place: int = 0, answer: bytes = b"", **words: Any) -> int:
    """After a prompt without any of the three bytes."""
    prompt = [0] * (place + 1)
    token: int = MODULE._choose(LIKELY, Draw(prompt=prompt, **words), [*prompt, *answer])
    return token


def drawn(answer: bytes = b"", **words: Any) -> set[int]:
    return {choose(place, answer, **{"temperature": 1.0, **words}) for place in range(200)}


def test_every_byte_that_follows_is_drawn() -> None:
    assert drawn() == {A, B, C}


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ({"top_k": 2}, {A, B}),
        ({"top_p": 0.6}, {A}),
        ({"top_p": 0.61}, {A, B}),
        ({"min_p": 0.2}, {A, B}),
        ({"min_p": 0.9}, {A}),
        ({"top_p": 0.0}, {A}),
    ],
)
def test_a_cut_leaves_the_likeliest(words: dict[str, Any], left: set[int]) -> None:
    assert drawn(**words) == left


@pytest.mark.parametrize(
    ("words", "token"),
    [
        ({}, A),
        ({"repetition_penalty": 4.0}, B),
        ({"presence_penalty": 1.0}, B),
        ({"frequency_penalty": 0.3}, A),
        ({"frequency_penalty": 0.4}, B),
    ],
)
def test_penalties_count_the_answer(words: dict[str, Any], token: int) -> None:
    assert choose(answer=b"aa", **words) == token


@pytest.mark.parametrize(
    ("words", "token"), [({"repetition_penalty": 4.0}, B), ({"presence_penalty": 2.0}, A)]
)
def test_only_repetition_counts_the_prompt(words: dict[str, Any], token: int) -> None:
    assert MODULE._choose(LIKELY, Draw(prompt=[A], **words), [A]) == token


@given(temperature=st.floats(0, 2), seed=st.integers(-(2**63), 2**64 - 1))
def test_no_temperature_breaks_the_engine(temperature: float, seed: int) -> None:
    assert choose(temperature=temperature, seed=seed) in LIKELY


def test_a_cold_draw_is_the_likeliest() -> None:
    assert drawn(temperature=0.001) == {A}


def test_a_step_draws_after_what_the_slot_holds() -> None:
    engine = MODULE.MarkovEngine(b"abab\n", order=2, context_length=64, slots=1)
    row = Row(0, [10, A], 0, draw=Draw(prompt=[10, A], temperature=0.001))
    (outcome,) = engine.step(Batch(rows=[row]))
    assert outcome.token == B
