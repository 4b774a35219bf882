"""Our llama.cpp engine against transformers, on the same weights in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import transformers
from ggufs import TINY, tiny_float32

from open_llm_server.engine.base import Batch, Copy, Draw, Row
from open_llm_server.engine.llama_cpp import LlamaCppEngine

pytestmark = pytest.mark.weights

NEW_TOKENS = 24
QUESTIONS = (
    "Hello, how are you?", "Who are you?", "What is the capital of France?", "thanks", "Bye!",
    "How do I start the server?", "Which port does the server use?", "Tell me a story.",
    "What is 2 + 3?", "My name is Ada.", "What can you do?", "Good morning", "What is a model?",
    "Why is the sky blue?", "How do I stop the server?", "Do you like tea?",
)  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppEngine]:
    path = tiny_float32(tmp_path_factory.mktemp("tiny"))
    loaded = LlamaCppEngine.load(path, context_length=512, slots=17, threads=2)
    yield loaded
    loaded.close()


@pytest.fixture(autouse=True)
def empty_slots(engine: LlamaCppEngine) -> None:
    for slot in range(engine.limits.slots):
        engine.forget(slot)


@pytest.fixture(scope="module")
def prompts(engine: LlamaCppEngine) -> list[list[int]]:
    texts = [f"<|user|>\n{question}<|end|>\n<|assistant|>\n" for question in QUESTIONS]
    return [engine.tokenize(text, begin=True, control=True) for text in texts]


@pytest.fixture(scope="module")
def expected(prompts: list[list[int]]) -> list[list[int]]:
    """What transformers' own `generate` says, end token included."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(TINY / "hf", dtype=torch.float32)
    found = []
    for prompt in prompts:
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
        )
        found.append(out[0, len(prompt) :].tolist())
    return found


def run(engine: LlamaCppEngine, rows: Sequence[Row], first: Batch | None = None) -> list[list[int]]:
    """NEW_TOKENS tokens after each row, all in one batch, past any end token."""
    outcomes = engine.step(first or Batch(rows=rows))
    found: list[list[int]] = [[] for _ in rows]
    for _ in range(NEW_TOKENS):
        for place, outcome in enumerate(outcomes):
            assert outcome.token is not None
            found[place].append(outcome.token)
        rows = [
            Row(row.slot, [found[place][-1]], row.start + len(row.tokens), row.draw)
            for place, row in enumerate(rows)
        ]
        outcomes = engine.step(Batch(rows=rows))
    return found


def test_alone(engine: LlamaCppEngine, prompts: list[list[int]], expected: list[list[int]]) -> None:
    for prompt, theirs in zip(prompts, expected, strict=True):
        engine.forget(0)
        (ours,) = run(engine, [Row(0, prompt, 0, Draw(prompt=prompt))])
        assert ours[: len(theirs)] == theirs


def test_sixteen_at_once(
    engine: LlamaCppEngine, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    rows = [Row(slot, prompt, 0, Draw(prompt=prompt)) for slot, prompt in enumerate(prompts)]
    for ours, theirs in zip(run(engine, rows), expected, strict=True):
        assert ours[: len(theirs)] == theirs


def test_after_a_copied_prefix(
    engine: LlamaCppEngine, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    """Each prompt but its end is evaluated in one slot and continued in others."""
    for prompt, theirs in zip(prompts, expected, strict=True):
        shared = len(prompt) - 3
        for slot in range(4):
            engine.forget(slot)
        engine.step(Batch(rows=[Row(0, prompt, 0)]))
        copies = [Copy(0, slot, shared) for slot in (1, 2, 3)]
        rows = [Row(slot, prompt[shared:], shared, Draw(prompt=prompt)) for slot in (1, 2, 3)]
        for ours in run(engine, rows, Batch(copies=copies, rows=rows)):
            assert ours[: len(theirs)] == theirs
