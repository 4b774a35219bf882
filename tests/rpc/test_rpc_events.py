"""The messages of a stream, from any order of frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_llm_server.api import native
from open_llm_server.api.ask import Signature
from open_llm_server.core import FinishReason, Usage
from open_llm_server.errors import EngineError
from open_llm_server.frames import Alive, Delta, End, Frame, Queued, Start
from open_llm_server.rpc import v1
from open_llm_server.rpc.stream import Event, Events

CHOICES = 3
SIGNATURE = Signature("id-7", 0, "called", "fp")
USED: dict[str, Any] = {"top_k": 3}
REASONS: tuple[FinishReason, ...] = ("stop", "length", "stop")


def events_of(choices: int = CHOICES) -> Events:
    body = json.dumps({"prompt": "x", "n": choices}).encode()
    return Events(native.read_complete(body), SIGNATURE)


def ending(choices: int = CHOICES) -> list[Frame]:
    """What closes each choice, and the whole."""
    last = [Delta(index, "", reason=REASONS[index]) for index in range(choices)]
    return [*last, End(Usage(prompt_tokens=7, completion_tokens=9), {}, USED)]


DELTAS = st.builds(
    Delta, st.integers(0, CHOICES - 1), st.sampled_from(["", "a", "é ", "😀"]), st.integers(0, 3)
)
OTHERS = st.sampled_from([Alive(), Queued(1, None), Start(7)])
TAKES = st.lists(st.lists(DELTAS | OTHERS, max_size=6), max_size=6)


@given(TAKES, st.booleans())
def test_any_order_of_frames(takes: list[list[Frame]], end_apart: bool) -> None:
    sent = [*takes, ending()] if end_apart or not takes else [*takes[:-1], [*takes[-1], *ending()]]
    events = events_of()
    made = [list(events.of(frames)) for frames in sent]
    flat = [event for take in made for event in take]
    assert isinstance(flat[0], v1.StreamStart)
    assert isinstance(flat[-1], v1.StreamEnd)
    assert [type(event) for event in flat[1:-1]] == [v1.StreamDelta] * (len(flat) - 2)
    for take in made:
        indexes = [event.index for event in take if isinstance(event, v1.StreamDelta)]
        assert len(set(indexes)) == len(indexes), "one message for each choice of a take"
    for index in range(CHOICES):
        check_choice(index, [frame for frames in sent for frame in frames], flat)


def check_choice(index: int, frames: Sequence[Frame], events: Sequence[Event]) -> None:
    pieces = [frame for frame in frames if isinstance(frame, Delta) and frame.index == index]
    told = [event for event in events if isinstance(event, v1.StreamDelta) and event.index == index]
    assert "".join(event.text for event in told) == "".join(piece.text for piece in pieces)
    assert all(event.text for event in told)
    # Tokens without a text are told with the next one, and after the last text no more.
    seen = max((place for place, piece in enumerate(pieces, 1) if piece.text), default=0)
    least = sum(piece.tokens for piece in pieces[:seen])
    most = sum(piece.tokens for piece in pieces)
    assert least <= sum(event.tokens for event in told) <= most


def test_who_and_how_much() -> None:
    events = events_of(1)
    (start,) = events.of([Queued(1, None), Start(7)])
    assert start == v1.StreamStart(id="id-7", model="called", prompt_tokens=7)
    delta, *_ = events.of([Delta(0, "a", 1), Delta(0, "", 1), Delta(0, "b", 2)])
    assert delta == v1.StreamDelta(index=0, text="ab", tokens=4)
    (end,) = events.of(ending(1))
    assert isinstance(end, v1.StreamEnd)
    assert [*end.finish_reasons] == [v1.FINISH_REASON_STOP]
    assert end.configuration.sampling == v1.Sampling(top_k=3)
    assert (end.usage.prompt_tokens, end.usage.total_tokens) == (7, 16)


def test_an_answer_of_nothing_has_a_start_and_an_end() -> None:
    start, end = events_of(1).of(ending(1))
    assert isinstance(start, v1.StreamStart)
    assert isinstance(end, v1.StreamEnd)


def test_a_missing_choice_is_an_error() -> None:
    events = events_of()
    with pytest.raises(EngineError, match="2 texts instead of 3"):
        list(events.of([Start(1), *ending()[1:]]))
