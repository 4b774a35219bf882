"""Waiting times come from what was measured, over busy time only."""

from __future__ import annotations

import pytest

from open_llm_server.engine.meter import WINDOW, DrainMeter


def test_nothing_is_promised_before_anything_was_measured() -> None:
    meter = DrainMeter()
    meter.busy(0.0)
    assert meter.seconds_for(3, 10.0) is None


def test_a_steady_rate_is_found() -> None:
    meter = DrainMeter()
    meter.busy(0.0)
    for second in range(1, 3 * WINDOW):
        meter.left(2.0 * second)
    assert meter.seconds_for(5, 2.0 * (3 * WINDOW - 1)) == pytest.approx(10.0)


def test_idle_time_does_not_count() -> None:
    meter = DrainMeter()
    meter.busy(0.0)
    meter.left(1.0)
    meter.idle(1.0)
    meter.busy(1000.0)
    meter.left(1001.0)
    assert meter.seconds_for(1, 1001.0) == pytest.approx(1.0)


def test_a_stall_shows() -> None:
    meter = DrainMeter()
    meter.busy(0.0)
    meter.left(1.0)
    assert meter.seconds_for(1, 60.0) == pytest.approx(59.0)


def test_the_wait_gets_shorter_while_it_passes() -> None:
    meter = DrainMeter()
    meter.busy(0.0)
    for second in (3.0, 6.0, 9.0):
        meter.left(second)
    assert meter.seconds_for(1, 9.0) == pytest.approx(3.0)
    assert meter.seconds_for(1, 11.0) == pytest.approx(1.0)
