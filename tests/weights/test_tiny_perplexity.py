"""Perplexity of the built-in model is what transformers computes, in float32, on both engines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ggufs import TINY, tiny_float32
from transformers import AutoModelForCausalLM, AutoTokenizer

from open_llm_server import perplexity
from open_llm_server.engine.llama_cpp import LlamaCppEngine

pytestmark = pytest.mark.weights

TEXT = (TINY / "text" / "identity.yaml").read_text(encoding="utf-8")[:4000]
CLOSE = 1e-3


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_float32(tmp_path_factory.mktemp("float32"))


@pytest.fixture(scope="module")
def engine(float32: Path) -> Iterator[LlamaCppEngine]:
    loaded = LlamaCppEngine.load(float32, context_length=512, slots=4, threads=2)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    found: list[int] = AutoTokenizer.from_pretrained(TINY / "hf").encode(TEXT)
    return found


def theirs(tokens: list[int], size: int, stride: int) -> float:
    """The mean of the guide's sliding window, each token weighing the same. In nats."""
    model: Any = AutoModelForCausalLM.from_pretrained(TINY / "hf", dtype=torch.float32)
    total, scored = 0.0, 1
    for begin in range(0, len(tokens), stride):
        end = min(begin + size, len(tokens))
        with torch.no_grad():
            logits = model(torch.tensor([tokens[begin:end]])).logits[0].log_softmax(-1)
        for place in range(scored, end):
            total -= float(logits[place - begin - 1, tokens[place]])
        scored = end
        if end == len(tokens):
            break
    return total / (len(tokens) - 1)


@pytest.mark.parametrize(("size", "stride"), [(512, 256), (96, 48), (64, 9)])
def test_equals_transformers(
    engine: LlamaCppEngine, tokens: list[int], size: int, stride: int
) -> None:
    read = perplexity.read(engine, TEXT)
    assert list(read.tokens) == tokens
    *_, tally = perplexity.measure(engine, read.tokens, size=size, stride=stride)
    assert tally.tokens == len(tokens) - 1
    assert tally.mean == pytest.approx(theirs(tokens, size, stride), abs=CLOSE)


def test_a_text_tokenised_in_parts(
    engine: LlamaCppEngine, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perplexity, "PART", 500)
    assert list(perplexity.read(engine, TEXT).tokens) == tokens


def test_the_command(float32: Path, tokens: list[int], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    words = [f"exact=llama@{float32}", "text.txt", "--context", "256", "--stride", "64", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "open_llm_server", "perplexity", *words],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["mean_negative_log_likelihood"] == pytest.approx(
        theirs(tokens, 256, 64), abs=CLOSE
    )
    assert (found["model"], found["engine"], found["window"]) == ("exact", "llama.cpp", 256)
    assert found["tokens"] == len(tokens) - 1


def test_the_engine_on_torch_says_the_same(tokens: list[int], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    words = ["tiny-torch", "text.txt", "--context", "256", "--dtype", "float32", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "open_llm_server", "perplexity", *words],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["mean_negative_log_likelihood"] == pytest.approx(
        theirs(tokens, 256, 128), abs=1e-4
    )
    assert found["engine"] == "torch"
