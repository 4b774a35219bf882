"""A llama.cpp engine on small random weights, and short ways to drive it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from open_llm_server.engine.base import Batch, Draw, Row
from open_llm_server.engine.llama_cpp import LlamaCppEngine

PROMPT = [1, 300, 310, 320, 330, 340, 350, 360]
BROKEN = 400
"""A token whose embedding is not a number."""


def load(path: Path, **changes: Any) -> LlamaCppEngine:
    return LlamaCppEngine.load(path, **{"context_length": 256, "slots": 4, "threads": 2, **changes})


def generate(
    engine: LlamaCppEngine,
    count: int,
    draw: Draw | None = None,
    *,
    slot: int = 0,
    prompt: Sequence[int] = PROMPT,
    start: int = 0,
) -> list[int]:
    """`count` tokens after `prompt`, of which the slot holds `start` tokens."""
    draw = draw or Draw(prompt=prompt)
    row = Row(slot, prompt[start:], start, draw)
    found: list[int] = []
    for _ in range(count):
        (outcome,) = engine.step(Batch(rows=[row]))
        assert outcome.token is not None
        found.append(outcome.token)
        row = Row(slot, [outcome.token], row.start + len(row.tokens), draw)
    return found


def logits(engine: LlamaCppEngine, tokens: Sequence[int]) -> np.ndarray[Any, Any]:
    """All log-probabilities after `tokens`, in the order of token ids."""
    engine.forget(0)
    draw = Draw(logprobs=engine.limits.vocabulary)
    (outcome,) = engine.step(Batch(rows=[Row(0, tokens, 0, draw)]))
    engine.forget(0)
    assert outcome.score
    return np.array([value for _, value in sorted(outcome.score.top)])
