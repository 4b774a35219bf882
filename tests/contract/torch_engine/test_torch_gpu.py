"""The engine on GPUs: the same tokens as on the CPU, on one device and over several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fidelity import KINDS, Pair, order, run, search

pytestmark = [pytest.mark.weights, pytest.mark.gpu]

TEXTS = ("Hello, how are you?", "one two three four five six seven eight nine ten", "soup 🍜")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
NEEDS_TWO = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@NEEDS_GPU
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_computes_what_the_cpu_computes(kind: str, tmp_path: Path) -> None:
    folder = KINDS[kind].make(tmp_path / "checkpoint", **KINDS[kind].config)
    pair = Pair(folder, device="gpu:0", gpus=1)
    orders = [order(pair.prompt(text), arrives=number) for number, text in enumerate(TEXTS)]
    if pair.encodes:
        orders += search(pair.prompt(TEXTS[0]), beams=3, best=2)
    run(pair.engine, orders)
    for entry in orders[: len(TEXTS)]:
        assert entry.job.output == pair.generated(entry.job.prompt)
    assert len(pair.engine.embed([pair.prompt(TEXTS[0])])[0]) > 0


@NEEDS_TWO
@pytest.mark.parametrize("kind", KINDS)
def test_gpus_share_a_model_layer_by_layer(kind: str, tmp_path: Path) -> None:
    folder = KINDS[kind].make(tmp_path / "checkpoint", **KINDS[kind].config)
    pair = Pair(folder, device="gpu:0+1", gpus=2)
    orders = [order(pair.prompt(text)) for text in TEXTS]
    run(pair.engine, orders)
    for entry in orders:
        assert entry.job.output == pair.generated(entry.job.prompt)


@NEEDS_GPU
def test_bfloat16_is_what_a_gpu_computes_in(tmp_path: Path) -> None:
    pair = Pair(KINDS["gpt-neox"].make(tmp_path / "c"), device="gpu:0", gpus=1, dtype="auto")
    entry = order(pair.prompt(TEXTS[0]), max_tokens=2)
    run(pair.engine, [entry])
    assert len(entry.job.output) == 2
