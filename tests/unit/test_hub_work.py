"""Work that is waited for, until somebody has had enough."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from open_llm_server.store import hub_work
from open_llm_server.store.progress import Meter, Progress

HANG_S = 20.0


@pytest.fixture
def open_door() -> Iterator[threading.Event]:
    """What jobs that never end wait for."""
    door = threading.Event()
    yield door
    door.set()


def test_all_outcomes_come() -> None:
    def job(n: int) -> int:
        return n

    jobs = [lambda n=n: job(n) for n in range(20)]
    assert sorted(hub_work.each(jobs, Meter(), threading.Event())) == [*range(20)]
    assert not [*hub_work.each([], Meter(), threading.Event())]


def test_the_first_error_ends_all(open_door: threading.Event) -> None:
    def fail() -> None:
        raise KeyError

    cancelled = threading.Event()
    with pytest.raises(KeyError):
        [*hub_work.each([lambda: open_door.wait(HANG_S), fail], Meter(), cancelled)]
    assert cancelled.is_set()


def test_a_listener_hears_that_nothing_comes_and_may_leave(open_door: threading.Event) -> None:
    heard: list[Progress] = []

    def listen(progress: Progress) -> None:
        heard.append(progress)
        if len(heard) == 3:
            raise KeyError

    cancelled = threading.Event()
    with pytest.raises(KeyError):
        hub_work.heard(lambda: open_door.wait(HANG_S), Meter(listen), cancelled)
    assert cancelled.is_set()
    assert {progress.done for progress in heard} == {0}


def test_work_is_done_within_its_time() -> None:
    assert hub_work.within(lambda: 7, HANG_S, late=lambda _: pytest.fail("late")) == 7
    with pytest.raises(ZeroDivisionError):
        hub_work.within(lambda: 1 // 0, HANG_S, late=lambda _: None)


def test_what_comes_late_is_handed_over(open_door: threading.Event) -> None:
    came, results = threading.Event(), []

    def job() -> int:
        open_door.wait(HANG_S)
        return 7

    def late(result: int) -> None:
        results.append(result)
        came.set()

    with pytest.raises(hub_work.Late):
        hub_work.within(job, 0.01, late)
    open_door.set()
    assert came.wait(HANG_S)
    assert results == [7]
