"""What a worker has done since it started, as numbers that only grow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What the worker has done since it started."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    embedded_tokens: int = 0
    steps: int = 0
    finished: int = 0
    cancelled: int = 0
