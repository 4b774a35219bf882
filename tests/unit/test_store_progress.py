"""What a meter says of a phase: how fast it is, how long it will take, and that nothing comes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from open_llm_server.store import progress
from open_llm_server.store.progress import Meter, Progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def run(
    clock: Clock, meter: Meter, seconds: int, *, rate: int = 0, note: str | None = None
) -> None:
    for _ in range(seconds):
        clock.now += 1
        meter.add(rate, note=note)


def test_a_host_that_falls_silent(clock: Clock) -> None:
    heard: list[Progress] = []
    meter = Meter(heard.append)
    meter.begin("downloading", 10_000, note="org/name", host="hub.example")
    run(clock, meter, 10, rate=100, note="a.gguf")
    assert (heard[-1].note, heard[-1].rate, heard[-1].eta_s) == ("a.gguf", 100, 90)
    run(clock, meter, 9)
    assert (heard[-1].note, heard[-1].silent_s) == ("a.gguf", None)
    assert max(told.eta_s or 0 for told in heard) < 300
    run(clock, meter, 3)
    assert (heard[-1].note, heard[-1].silent_s) == ("hub.example is silent since 12 s", 12)
    assert heard[-1].rate is heard[-1].eta_s is None
    meter.ask_again()
    assert heard[-1].note == "hub.example is silent since 12 s, asked again"
    run(clock, meter, 1)
    assert heard[-1].note == "hub.example is silent since 13 s, asked again"
    run(clock, meter, 2, rate=100, note="a.gguf")
    assert (heard[-1].note, heard[-1].silent_s) == ("a.gguf", None)
    assert heard[-1].eta_s is not None


def test_a_host_that_broke_off_is_asked_again(clock: Clock) -> None:
    heard: list[Progress] = []
    meter = Meter(heard.append)
    meter.begin("downloading", 10_000, note="org/name", host="hub.example")
    run(clock, meter, 2, rate=100, note="a.gguf")
    meter.ask_again()
    assert (heard[-1].note, heard[-1].silent_s) == ("hub.example is asked again", None)
    run(clock, meter, 1, rate=100, note="a.gguf")
    assert heard[-1].note == "a.gguf"


def test_bytes_that_have_to_come_again_are_no_sign_of_life(clock: Clock) -> None:
    heard: list[Progress] = []
    meter = Meter(heard.append)
    meter.begin("downloading", 10_000, host="hub.example")
    run(clock, meter, 2, rate=1000)
    clock.now += 20
    meter.add(-1000)
    assert heard[-1].silent_s == 20


def test_other_phases_are_never_silent(clock: Clock) -> None:
    heard: list[Progress] = []
    meter = Meter(heard.append)
    meter.begin("downloading", 10, host="hub.example")
    meter.begin("quantising", 4, note="a tensor")
    run(clock, meter, 2, rate=1)
    run(clock, meter, 7)
    assert (heard[-1].note, heard[-1].silent_s) == ("a tensor", None)
    assert heard[-1].eta_s is not None
