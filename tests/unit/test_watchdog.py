"""What counts as an engine call that hangs. Time is made up."""

from __future__ import annotations

import pytest

from open_llm_server.engine.watchdog import LOOK_EVERY_S, overdue

LIMIT_S = 10.0


class Over(Exception):
    """The end of a test's time: nothing was overdue."""


class Engine:
    """In calls that take `call_s` each; the process sleeps through `gap_s` at `gap_at`."""

    def __init__(self, call_s: float, *, gap_at: float = 0.0, gap_s: float = 0.0) -> None:
        self.now = 0.0
        self._call_s = call_s
        self._gap_at = gap_at
        self._gap_s = gap_s

    def age_s(self) -> float | None:
        return self.now % self._call_s if self._call_s else None

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        before = self.now
        self.now += seconds
        if before <= self._gap_at < self.now:
            self.now += self._gap_s
        if self.now > 1000:
            raise Over


async def watch(engine: Engine) -> None:
    await overdue(engine.age_s, LIMIT_S, clock=engine.clock, sleep=engine.sleep)


async def test_a_call_that_does_not_return_is_noticed() -> None:
    engine = Engine(call_s=1e9)
    await watch(engine)
    assert LIMIT_S <= engine.now <= LIMIT_S + 2 * LOOK_EVERY_S


@pytest.mark.parametrize("call_s", [0.0, 0.3, LIMIT_S - LOOK_EVERY_S])
async def test_calls_within_the_limit_are_not(call_s: float) -> None:
    with pytest.raises(Over):
        await watch(Engine(call_s))


async def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    engine = Engine(call_s=1e9, gap_at=3.5, gap_s=500.0)
    await watch(engine)
    assert engine.now > 500 + LIMIT_S - 2 * LOOK_EVERY_S
