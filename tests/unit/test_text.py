"""TextAssembler against an oracle that sees all bytes at once."""

from __future__ import annotations

import codecs
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from open_llm_server.engine.text import TextAssembler
from open_llm_server.errors import InvalidField

FAMILY = "\U0001f469\u200d\U0001f4bb\u200d\u2764\ufe0f"  # One glyph, six characters, 20 bytes.

# Few distinct characters, of one to four bytes, so that stop strings occur and overlap often.
LETTERS = st.text(alphabet="ab#é漢\U0001f600\u200d\ufffd", max_size=30)
STOPS = st.lists(st.text(alphabet="ab#é漢\U0001f600\u200d\ufffd", min_size=1, max_size=6))
BYTES = st.one_of(
    LETTERS.map(str.encode),
    st.lists(
        st.sampled_from(
            [b"a", b"b", b"#", "é".encode(), "漢".encode(), FAMILY.encode()]
            + [bytes([value]) for value in (0x80, 0xA0, 0xC3, 0xE2, 0xED, 0xF0, 0x9F, 0xF5, 0xFF)]
        ),
        max_size=20,
    ).map(b"".join),
    st.binary(max_size=40),
)


@st.composite
def split_bytes(draw: DrawFn) -> list[bytes]:
    """Any bytes in any pieces, empty ones among them."""
    whole = draw(BYTES)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    borders = [0, *cuts, len(whole)]
    return [whole[begin:end] for begin, end in pairwise(borders)]


def oracle(whole: bytes, stops: list[str]) -> tuple[str, bool]:
    text = whole.decode("utf-8", "replace")
    for end in range(1, len(text) + 1):
        ending = [len(stop) for stop in stops if text.endswith(stop, 0, end)]
        if ending:
            return text[: end - max(ending)], True
    return text, False


def assemble(pieces: list[bytes], stops: list[str]) -> tuple[str, bool]:
    assembler = TextAssembler(stops)
    text = "".join([assembler.push(piece) for piece in pieces])
    return text + assembler.flush(), assembler.stopped


@settings(max_examples=500)
@given(split_bytes(), STOPS.filter(lambda stops: len(stops) <= 16))
@example([b"x", b"ab", b"cd"], ["bc", "abcd"])
@example([b"aab"], ["ab", "aab"])
@example([b"aaaa", b"ab"], ["aaab"])
@example([b"ababab", b"#"], ["ababa!", "#"])
@example([b"aabaab", b"b#"], ["aabaaa", "abb", "b#"])
@example([b"\xed", b"\xa0", b"\x80"], ["\ufffd\ufffd\ufffd"])
def test_any_split_gives_what_the_whole_gives(pieces: list[bytes], stops: list[str]) -> None:
    assert assemble(pieces, stops) == oracle(b"".join(pieces), stops)


@given(
    split_bytes(), st.lists(st.text(min_size=1, max_size=4), min_size=16, max_size=16), st.data()
)
def test_sixteen_stops_taken_from_the_text_itself(
    pieces: list[bytes], stops: list[str], data: st.DataObject
) -> None:
    whole = b"".join(pieces).decode("utf-8", "replace")
    if whole:
        begin = data.draw(st.integers(0, len(whole) - 1))
        stops[-1] = whole[begin : data.draw(st.integers(begin + 1, len(whole)))]
    assert assemble(pieces, stops) == oracle(b"".join(pieces), stops)


@given(split_bytes(), STOPS)
def test_nothing_is_held_back_longer_than_it_must(pieces: list[bytes], stops: list[str]) -> None:
    assembler = TextAssembler(stops)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    known, released = "", ""
    for piece in pieces:
        known += decoder.decode(piece)
        released += assembler.push(piece)
        if assembler.stopped:
            return
        beginnings = (stop[:length] for stop in stops for length in range(1, len(stop)))
        must_hold = max((len(tail) for tail in beginnings if known.endswith(tail)), default=0)
        assert released == known[: len(known) - must_hold]


@given(split_bytes(), STOPS)
def test_items_come_with_the_last_character_they_contributed_to(
    pieces: list[bytes], stops: list[str]
) -> None:
    assembler = TextAssembler(stops)
    taken: list[int] = []
    released = 0
    whole = b""
    ends = []
    for number, piece in enumerate(pieces):
        whole += piece
        ends.append(len(whole.decode("utf-8", "replace")))
        was_stopped = assembler.stopped
        released += len(assembler.push(piece, item=number))
        if was_stopped:
            ends.pop()
        taken += assembler.take_items()
        assert taken == [number for number, end in enumerate(ends) if end <= released]
    released += len(assembler.flush())
    taken += assembler.take_items()
    assert taken == [number for number, end in enumerate(ends) if end <= released]
    if not assembler.stopped:
        assert taken == list(range(len(pieces)))


@pytest.mark.parametrize("stop", ["###", "é#漢", FAMILY, "a" * 256])
def test_a_stop_string_in_every_alignment(stop: str) -> None:
    whole = f"before {stop} after".encode()
    for first in range(len(whole) + 1):
        for second in range(first, min(first + 5, len(whole)) + 1):
            pieces = [whole[:first], whole[first:second], whole[second:]]
            assert assemble(pieces, [stop]) == ("before ", True)


def test_text_that_may_become_a_stop_waits() -> None:
    text = TextAssembler(stop=("###",))
    assert text.push(b"hi #") == "hi "
    assert text.push(b"##x") == ""
    assert text.stopped
    assert text.push(b"more") == ""
    assert text.flush() == ""


def test_text_that_does_not_become_a_stop_goes_out() -> None:
    text = TextAssembler(stop=("###",))
    assert [text.push(piece) for piece in (b"#", b"#", b"!", b"#")] == ["", "", "##!", ""]
    assert text.flush() == "#"
    assert not text.stopped


def test_an_emoji_in_four_pieces_comes_whole() -> None:
    text = TextAssembler()
    assert [text.push(bytes([byte])) for byte in "\U0001f600".encode()] == [
        "",
        "",
        "",
        "\U0001f600",
    ]
    assert text.flush() == ""


def test_an_unfinished_character_is_replaced_at_the_end() -> None:
    text = TextAssembler()
    assert text.push(b"a\xf0\x9f", item="token") == "a"
    assert text.take_items() == []
    assert text.flush() == "\ufffd"
    assert text.take_items() == ["token"]


def test_items_of_a_cut_text_are_dropped() -> None:
    text = TextAssembler(stop=("###",))
    assert text.push(b"one", item=1) == "one"
    assert text.push(b" two#", item=2) == " two"
    assert text.take_items() == [1]
    assert text.push(b"", item=3) == ""
    assert text.push(b"##", item=4) == ""
    assert text.push(b"five", item=5) == ""
    text.flush()
    assert text.take_items() == []


def test_an_empty_stop_string_is_refused_by_name() -> None:
    with pytest.raises(InvalidField) as refusal:
        TextAssembler(stop=("a", ""))
    assert refusal.value.param == "stop_sequence"
