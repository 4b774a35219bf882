"""The parser of server-sent events: any cut gives the same events, in bounded memory."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_llm_client._sse import BrokenStream, Event, Parser

pieces = st.sampled_from(
    [
        *(b"\n", b"\n\n", b"\r", b"\r\n", b"\xef\xbb\xbf", "data: día 🌞".encode()),
        *(b"data: a", b"data:", b"data", b"data: x: y", b"event: e"),
        *(b": c", b"id: 1", b"retry: 5", b"nonsense"),
    ]
)
streams = st.lists(pieces, max_size=30).map(b"".join)


def parsed(*chunks: bytes, limit: int = 10_000) -> list[Event]:
    parser = Parser(limit)
    return [event for chunk in chunks for event in parser.feed(chunk)]


def plainly(data: bytes) -> list[Event]:
    """The same in another way: all at once, by the standard's words."""
    text = data.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events: list[Event] = []
    lines: list[str] = []
    name = ""
    for line in text.split("\n")[:-1]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if lines:
                events.append(Event(name, "\n".join(lines)))
            name, lines = "", []
        elif field == "data":
            lines.append(value)
        elif field == "event":
            name = value
    return events


@given(data=streams, cuts=st.lists(st.integers(0, 200), max_size=8))
def test_any_cut_gives_the_same_events(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    chunks = [data[start:end] for start, end in pairwise(places)]
    single = [data[place : place + 1] for place in range(len(data))]
    assert parsed(*chunks) == parsed(*single) == parsed(data) == plainly(data)


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_any_bytes_are_events_or_broken(chunks: list[bytes]) -> None:
    with contextlib.suppress(BrokenStream):
        assert all(isinstance(event, Event) for event in parsed(*chunks))


def test_names_and_lines() -> None:
    data = b": hello\r\nevent: error\r\ndata: one\r\ndata: two\r\n\r\ndata\n\nevent: none\n\n"
    assert parsed(data) == [Event("error", "one\ntwo"), Event("", "")]


@pytest.mark.parametrize("chunk", [b"a" * 7, b"data: aaaaaaa\n", b"data:\n"])
def test_an_event_has_a_limit(chunk: bytes) -> None:
    with pytest.raises(BrokenStream, match="more than 1000 bytes"):
        parsed(*[chunk] * 2000, limit=1000)


def test_comments_and_short_events_have_none() -> None:
    parser = Parser(1000)
    for _ in range(1000):
        assert parser.feed(b": waiting\n") == []
        assert parser.feed(b"data: " + b"a" * 900 + b"\n\n")
