"""Suggestions for names that do not exist."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_llm_server.config.words import edits, nearest, suggest

NAMES = ["top_k", "top_p", "temperature", "port", "prompt", "PATH"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("topk", "top_k"),
        ("top-p", "top_p"),
        ("temprature", "temperature"),
        ("prot", "port"),
        ("pormpt", "prompt"),
        ("TOP_K", "top_k"),
        ("path", "PATH"),
        ("temper", "temperature"),
    ],
)
def test_the_nearest_name(word: str, meant: str) -> None:
    assert suggest(word, NAMES) == f"; did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("OPEN_LLM_TINY_PORT", "OPEN_LLM_TINY_LORA"),
        ("OPEN_LLM_TINYPORT", "OPEN_LLM_TINY_LORA"),
        ("bogus", "host"),
        ("top_x", "top_k"),
        ("to", "top_k"),
        ("", "a"),
    ],
)
def test_what_is_not_near(word: str, other: str) -> None:
    assert nearest(word, [other]) is None


def test_nothing_near() -> None:
    assert suggest("zzz", ["b", "a"]) == "; there are: a, b"
    assert suggest("zzz", []) == "; there are: none"
    assert suggest("zzz", [f"name{number}" for number in range(30)]) == ""


words = st.text("abc", max_size=6)


@settings(deadline=None)
@given(words, words)
def test_edits(one: str, other: str) -> None:
    assert (edits(one, other) == 0) == (one == other)
    assert edits(one, other) == edits(other, one)
    assert abs(len(one) - len(other)) <= edits(one, other) <= max(len(one), len(other))


def test_a_swap_is_one_edit() -> None:
    assert edits("prot", "port") == 1
