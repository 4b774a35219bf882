"""Callers of greedy completions: some at a time, or at random with lengths of their own."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Sequence
from typing import Any

from .clients import Answer, Load, stream
from .servers import SLOTS, Server
from .torch_models import Prompt

SHORTEST, LONGEST = 8, 256
"""New tokens of answers of mixed lengths."""
OVERLOAD = 1.5
"""Random arrivals come so much faster than they are served: every slot stays busy."""


def closed(server: Server, prompts: Sequence[Prompt], callers: int, new: int) -> Load:
    """All `prompts`, `callers` at a time; who is done takes the next. Raises RuntimeError."""

    async def run() -> Load:
        load, waiting = Load(tokens_each=new), list(reversed(prompts))

        async def caller() -> None:
            while waiting:
                load.answers.append(await stream(server.port, _body(server, waiting.pop(), new)))

        await asyncio.gather(*(caller() for _ in range(callers)))
        return load

    load = asyncio.run(run())
    _refuse_faults(server, load.answers)
    return load


def mixed_lengths(count: int, seed: int) -> list[int]:
    """Uniform from SHORTEST to LONGEST."""
    draw = random.Random(seed)
    return [draw.randint(SHORTEST, LONGEST) for _ in range(count)]


def equal_lengths(count: int) -> list[int]:
    """The mean of mixed ones."""
    return [(SHORTEST + LONGEST) // 2] * count


def arriving(
    server: Server, prompts: Sequence[Prompt], lengths: Sequence[int], *, rate: float, seed: int
) -> float:
    """Tokens/s while all slots are busy, with exponential gaps between arrivals.

    `rate` is what the server is known to make, in tokens/s. Raises RuntimeError.
    """
    draw, mean_gap_s = random.Random(seed), statistics.mean(lengths) / (OVERLOAD * rate)

    async def run() -> list[Answer]:
        tasks = []
        for prompt, new in zip(prompts, lengths, strict=True):
            body = _body(server, prompt, new)
            tasks.append(asyncio.create_task(stream(server.port, body)))
            await asyncio.sleep(draw.expovariate(1 / mean_gap_s))
        return list(await asyncio.gather(*tasks))

    answers = asyncio.run(run())
    _refuse_faults(server, answers)
    return _rate_between(answers, lengths)


def _rate_between(answers: Sequence[Answer], lengths: Sequence[int]) -> float:
    """From when the slots were first full until the last request got one of them.

    Each answer's tokens are taken to be spread evenly from its first one to its end.
    """
    spans = [
        (answer.started_at + (answer.first_s or 0.0), answer.ended_at, new)
        for answer, new in zip(answers, lengths, strict=True)
    ]
    firsts = sorted(first for first, _, _ in spans)
    begin, end = firsts[SLOTS - 1], firsts[-1]
    made = sum(
        new * max(0.0, min(last, end) - max(first, begin)) / max(last - first, 1e-9)
        for first, last, new in spans
    )
    return made / (end - begin)


def _body(server: Server, prompt: Prompt, new: int) -> dict[str, Any]:
    return {
        "model": server.model,
        "prompt": prompt.text,
        "max_tokens": new,
        "temperature": 0,
        "stream": True,
    }


def _refuse_faults(server: Server, answers: Sequence[Answer]) -> None:
    faults = [answer.fault for answer in answers if answer.fault]
    if faults:
        raise RuntimeError(f"{server.name} failed {len(faults)} requests: {faults[0]}")
