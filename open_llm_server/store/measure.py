"""How well a loaded engine foretells the store's own text, and how fast it writes.

For comparing one model before and after its weights were changed. Knows the Engine protocol and
`perplexity`; no files but the text, no store.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import perplexity
from ..engine.base import Batch, Draw, Engine, Row, RowError
from ..errors import WeightsError

TEXT = Path(__file__).with_name("evaluation.txt")
WINDOW = 512
"""Tokens that a decoder reads at once. Windows hardly overlap: what is compared is read alike."""
HALF = 128
"""Tokens for each side of an encoder-decoder."""
SLOTS = 8
PROMPT, ANSWER = 32, 32
"""Tokens of a stream that speed is measured on."""
ROUNDS, ROUNDS_S = 8, 20.0
"""Rounds are repeated up to so many or for so long."""
QUICKER = 4
"""One in so many steps is taken for undisturbed."""

Told = Callable[[int], None]


def read(engine: Engine) -> Sequence[int]:
    """The text in tokens."""
    return perplexity.read(engine, TEXT.read_text(encoding="utf-8")).tokens


def perplexity_of(engine: Engine, tokens: Sequence[int], told: Told) -> float:
    """Of `tokens`; `told` counts those that are done. Raises WeightsError for no number."""
    try:
        if engine.limits.whole_prompt:
            found = _of_answers(engine, tokens, told)
        else:
            found = _of_text(engine, tokens, told)
    except RowError as error:
        raise WeightsError(f"these weights compute nothing: {error}; use others") from error
    for slot in range(engine.limits.slots):
        engine.forget(slot)
    if not math.isfinite(found):
        raise WeightsError("these weights foretell text no better than chance; use others")
    return found


def describe(engine: Engine, tokens: Sequence[int]) -> str:
    """The text as a manifest names it, and how it was read."""
    name = f"open-llm-server's own {TEXT.name}, {len(tokens)} tokens"
    if engine.limits.whole_prompt:
        return (
            f"{name}, in windows of {2 * _half(engine)}: the encoder reads the first half of each, "
            "the decoder is scored on the second"
        )
    return f"{name}, in windows of {_window(engine)}"


def speed(engine: Engine, tokens: Sequence[int], streams: int) -> float:
    """Tokens a second of `streams` answers at once, prompts not counted.

    Of the quicker steps: what else runs on the machine makes steps slower and none quicker.
    """
    steps: list[float] = []
    began = time.monotonic()
    for _ in range(ROUNDS):
        steps += _round(engine, tokens, streams)
        if time.monotonic() - began > ROUNDS_S:
            break
    return streams / sorted(steps)[len(steps) // QUICKER]


def _window(engine: Engine) -> int:
    return min(WINDOW, engine.limits.context_length)


def _half(engine: Engine) -> int:
    return min(HALF, (engine.limits.context_length - len(engine.limits.prompt_suffix)) // 2)


def _of_text(engine: Engine, tokens: Sequence[int], told: Told) -> float:
    size, before = _window(engine), 0
    for tally in perplexity.measure(engine, tokens, size=size, stride=size - 1):
        told(tally.tokens - before)
        before = tally.tokens
    return tally.perplexity


def _of_answers(engine: Engine, tokens: Sequence[int], told: Told) -> float:
    """An encoder-decoder continues what it read; both halves of a window have `_half` tokens."""
    half = _half(engine)
    starts = range(0, len(tokens) - 2 * half + 1, 2 * half)
    logprobs: list[float] = []
    for first in range(0, len(starts), engine.limits.slots):
        group = starts[first : first + engine.limits.slots]
        prompts = [[*tokens[at : at + half], *engine.limits.prompt_suffix] for at in group]
        answers = [tokens[at + half : at + 2 * half] for at in group]
        rows = [Row(slot, prompt, 0) for slot, prompt in enumerate(prompts)]
        for place in range(half):
            batch = [
                Row(row.slot, row.tokens, row.start, targets=[answers[row.slot][place]])
                for row in rows
            ]
            trims = [] if place else [(row.slot, 0) for row in rows]
            outcomes = engine.step(Batch(trims=trims, rows=batch))
            logprobs += [outcome.targets[0].logprob for outcome in outcomes]
            rows = [
                Row(row.slot, [answers[row.slot][place]], row.start + len(row.tokens))
                for row in rows
            ]
        told(2 * half * len(group))
    told(len(tokens) - 1 - 2 * half * len(starts))
    return perplexity.Tally(len(logprobs), -math.fsum(logprobs)).perplexity


def _round(engine: Engine, tokens: Sequence[int], streams: int) -> list[float]:
    """Seconds of each step of `streams` answers."""
    rows = []
    for slot in range(streams):
        prompt = [*tokens[slot * PROMPT : (slot + 1) * PROMPT], *engine.limits.prompt_suffix]
        engine.forget(slot)
        rows.append(Row(slot, prompt, 0, Draw(prompt=prompt)))
    steps = []
    for _ in range(ANSWER):
        began = time.perf_counter()
        outcomes = engine.step(Batch(rows=rows))
        steps.append(time.perf_counter() - began)
        rows = [
            Row(row.slot, [outcome.token or 0], row.start + len(row.tokens), row.draw)
            for row, outcome in zip(rows, outcomes, strict=True)
        ]
    for slot in range(streams):
        engine.forget(slot)
    return steps[1:]  # the first is the prompts'
