from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from open_llm_server.supervisor_backoff import Backoff


def test_delays_double_up_to_a_minute() -> None:
    backoff = Backoff()
    delays = [backoff.died(served_s=0.5) for _ in range(10)]
    assert delays == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_minute_of_health_starts_over() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.died(served_s=1)
    assert [backoff.died(served_s=served) for served in (60, 59.9, 3)] == [0, 1, 2]


@given(st.lists(st.floats(min_value=0, max_value=1e6)))
def test_the_first_death_after_health_is_free_and_no_wait_is_longer_than_a_minute(
    lives: list[float],
) -> None:
    backoff = Backoff()
    for served_s in lives:
        delay_s = backoff.died(served_s=served_s)
        assert 0 <= delay_s <= 60
        assert served_s < 60 or delay_s == 0
