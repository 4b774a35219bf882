"""How much a batch changes greedy texts of Q8_0 weights, whose kernels depend on its size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from open_llm_server.engine.base import Batch, Draw, Outcome, Row
from open_llm_server.engine.llama_cpp import LlamaCppEngine

from . import report

BATCH = 16
NEW_TOKENS = 48
TINY = Path(__file__).resolve().parent.parent / "models" / "tiny" / "tiny-q8_0.gguf"
NOUNS = (
    "the server", "a model", "the sea", "a friend", "tea", "the moon", "music", "a question",
    "bread", "time",
)  # fmt: skip
QUESTIONS = (
    "Tell me about {}.", "What is {}?", "Why do people like {}?", "Write a line on {}.",
    "How old is {}?", "Who made {}?", "Where is {}?", "Is {} good?", "Explain {} to a child.",
    "Say something about {}.",
)  # fmt: skip


def run(threads: int) -> list[report.Row]:
    """Greedy answers of the built-in model, each alone and then sixteen at a time."""
    engine = LlamaCppEngine.load(TINY, context_length=256, slots=BATCH, threads=threads)
    prompts = [
        engine.tokenize(
            f"<|user|>\n{question.format(noun)}<|end|>\n<|assistant|>\n", begin=True, control=True
        )
        for question in QUESTIONS
        for noun in NOUNS
    ]
    alone = [answer for prompt in prompts for answer in _answers(engine, [prompt])]
    together: list[list[Outcome]] = []
    rest = iter(prompts)
    while group := list(islice(rest, BATCH)):
        together += _answers(engine, group)
    engine.close()
    gaps = [
        gap
        for one, other in zip(alone, together, strict=True)
        if (gap := _first_difference(one, other)) is not None
    ]
    gap_words = "no text changed"
    if gaps:
        gap_words = f"gap of the two best logits there: {min(gaps):.2g} to {max(gaps):.2g}"
    return [
        report.Row(
            f"Q8_0: of {len(prompts)} greedy texts, changed by a batch of {BATCH}",
            len(gaps), "texts", detail=gap_words,
        )
    ]  # fmt: skip


def _answers(engine: LlamaCppEngine, prompts: Sequence[Sequence[int]]) -> list[list[Outcome]]:
    """Greedy answers to all `prompts` at once, with the two likeliest tokens of each step."""
    for slot in range(len(prompts)):
        engine.forget(slot)
    rows = [
        Row(slot, prompt, 0, Draw(prompt=prompt, logprobs=2)) for slot, prompt in enumerate(prompts)
    ]
    found: list[list[Outcome]] = [[] for _ in prompts]
    while rows:
        outcomes = engine.step(Batch(rows=rows))
        next_rows = []
        for row, outcome in zip(rows, outcomes, strict=True):
            assert outcome.token is not None
            found[row.slot].append(outcome)
            if outcome.token in engine.limits.end_tokens or len(found[row.slot]) >= NEW_TOKENS:
                continue
            next_rows.append(Row(row.slot, [outcome.token], row.start + len(row.tokens), row.draw))
        rows = next_rows
    return found


def _first_difference(one: Sequence[Outcome], other: Sequence[Outcome]) -> float | None:
    """The gap between the two best logits where two answers part; `None` if they do not."""
    for mine, theirs in zip(one, other, strict=False):
        if mine.token != theirs.token:
            assert mine.score
            (_, best), (_, second) = mine.score.top
            return best - second
    return None if len(one) == len(other) else math.nan
