"""How long to wait before a process that died is started again. Pure: no clock, no process."""

from __future__ import annotations

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
HEALTHY_AFTER_S = 60.0
"""Who served for so long had no part in earlier deaths."""


class Backoff:
    """Delays 0, 1, 2, 4 … 60 seconds; from 0 again after a minute of health."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def died(self, *, served_s: float) -> float:
        """Seconds to wait after a death, `served_s` after the process had become ready."""
        if served_s >= HEALTHY_AFTER_S:
            self._next_s = 0.0
        delay_s = self._next_s
        self._next_s = min(LONGEST_DELAY_S, delay_s * 2 or FIRST_DELAY_S)
        return delay_s
