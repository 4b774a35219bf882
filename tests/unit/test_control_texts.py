"""ControlTexts against oracles that look everywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from open_llm_server.engine.control_texts import LONGEST, ControlTexts

# Few letters and many overlaps, so that the cases that matter are common.
LETTERS = "ab<> "
SPELLINGS = st.sets(
    st.sampled_from(["<", "<a", "a>", "<a>", "<<", "ab", "aab", "a b", "<aba>", "b>a"])
    | st.text(alphabet=LETTERS, min_size=1, max_size=5),
    min_size=1,
    max_size=6,
)
TEXT = st.lists(st.sampled_from([*LETTERS, "<a", "ab", "a>", "b>"]), max_size=12).map("".join)

THOROUGH = settings(max_examples=400)


def occurrences(text: str, spellings: set[str]) -> list[tuple[int, int]]:
    """Each (begin, end) at which any of the spellings stands, overlaps too."""
    return [
        (begin, begin + len(spelling))
        for begin in range(len(text))
        for spelling in spellings
        if text.startswith(spelling, begin)
    ]


@THOROUGH
@given(TEXT, SPELLINGS)
@example("<s>", {"<s>", "<s"})
def test_the_first_spelling_is_found_and_the_longest_there(text: str, spellings: set[str]) -> None:
    found = occurrences(text, spellings)
    first = min(found, key=lambda place: (place[0], -place[1]), default=None)
    expected = text[first[0] : first[1]] if first else None
    assert ControlTexts(spellings).first_in(text) == expected


@THOROUGH
@given(TEXT, SPELLINGS)
def test_all_are_found_from_left_to_right(text: str, spellings: set[str]) -> None:
    expected = []
    position = 0
    while found := [place for place in occurrences(text, spellings) if place[0] >= position]:
        begin, position = min(found, key=lambda place: (place[0], -place[1]))
        expected.append(text[begin:position])
    assert ControlTexts(spellings).all_in(text) == expected


@THOROUGH
@given(TEXT, SPELLINGS, st.data())
def test_touch_sees_overlaps_of_any_kind(
    text: str, spellings: set[str], data: st.DataObject
) -> None:
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    expected = begin < end and any(
        first < end and last > begin for first, last in occurrences(text, spellings)
    )
    assert ControlTexts(spellings).touch(text, begin, end) is expected


@THOROUGH
@given(TEXT, TEXT, TEXT, SPELLINGS, st.sampled_from([str, str.strip, str.rstrip, str.lstrip]))
def test_what_joins_with_its_neighbours_was_suspected(
    before: str, text: str, after: str, spellings: set[str], trim: Callable[[str], str]
) -> None:
    inside = trim(text)
    begin, end = len(before), len(before) + len(inside)
    joined = any(
        first < end and last > begin and (first < begin or last > end)
        for first, last in occurrences(before + inside + after, spellings)
    )
    if inside and joined:
        assert ControlTexts(spellings).may_join(text)


@THOROUGH
@given(st.sampled_from(["<|im_end|>", "</s>", "[INST]"]), TEXT, st.sampled_from(["", " ", "\n "]))
def test_every_part_of_a_spelling_is_suspected(spelling: str, text: str, padding: str) -> None:
    controls = ControlTexts(["<|im_end|>", "</s>", "[INST]"])
    for begin in range(len(spelling)):
        for end in range(begin + 1, len(spelling) + 1):
            part = spelling[begin:end]
            assert len(part) == len(spelling) or controls.may_join(padding + part + padding)
            if begin == 0 and end < len(spelling):
                assert controls.may_join(text + part + padding)
            if begin > 0 and end == len(spelling):
                assert controls.may_join(padding + part + text)


@pytest.mark.parametrize("text", ["", "How are you?", "a < b", "<p>markup</p>", "> a quotation"])
def test_ordinary_text_holds_nothing(text: str) -> None:
    controls = ControlTexts(f"<|reserved_special_token_{index}|>" for index in range(1000))
    assert controls.first_in(text) is None
    assert controls.all_in(text) == []


def test_a_vocabulary_of_thousands() -> None:
    spellings = {f"<|reserved_{index}|>" for index in range(3000)} | {
        f"<u{i}>" for i in range(3000)
    }
    controls = ControlTexts(spellings)
    for spelling in spellings:
        assert controls.first_in(f"text <|reserved_ {spelling} text") == spelling
    assert controls.first_in("<|reserved_3000|> <u3000>") is None


def test_spellings_nested_deeper_than_a_compiler_goes() -> None:
    spellings = ["x" * length for length in range(1, LONGEST + 1)]
    assert ControlTexts(spellings).first_in("a" + "x" * 200 + "b") == "x" * 200
    zigzag = ["".join("ab"[index % 2] for index in range(length)) for length in range(1, 200)]
    assert ControlTexts(zigzag).first_in("abab!") == "abab"


def test_none_at_all() -> None:
    controls = ControlTexts(())
    assert controls.first_in("<s>") is None
    assert controls.all_in("<s>") == []
    assert not controls.may_join("<s>")
    assert not controls.touch("<s>", 0, 3)
