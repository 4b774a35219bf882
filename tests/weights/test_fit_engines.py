"""What is reckoned from headers against what real engines take: never less, and not far above."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from checkpoints import make_gpt_neox, make_llama, make_t5
from fit_measured import Case, measure
from ggufs import Shape, write_model

from open_llm_server.config.folder import models_folder
from open_llm_server.engine import fit_llama, fit_torch
from open_llm_server.engine.fit_sizes import MIB
from open_llm_server.engine.gguf import read_header
from open_llm_server.engine.llama_cpp import LlamaCppEngine
from open_llm_server.engine.llama_native import start_backend

pytestmark = [pytest.mark.weights]

MOST, SLACK = 1.5, 64 * MIB
RUNNER = 50 * MIB
"""What a runner has beside its engine."""
SHAPES = {
    "small": (Shape(64, 2, 4, 128, 512, 512, "F32"), 512, 8),
    "large vocabulary": (Shape(128, 2, 2, 512, 40_000, 1024, "Q8_0"), 1024, 2),
    "deep": (Shape(128, 24, 4, 256, 1000, 4096, "F16"), 1024, 2),
    "wide": (Shape(256, 2, 8, 8192, 1000, 2048, "Q8_0"), 1024, 2),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sizes")


def made(folder: Path, name: str) -> Path:
    path = folder / f"{name.replace(' ', '-')}.gguf"
    if not path.exists():
        write_model(path, SHAPES[name][0])
    return path


@pytest.mark.parametrize("name", SHAPES)
def test_llama_cpp_takes_no_more_than_reckoned(folder: Path, name: str) -> None:
    _, context, slots = SHAPES[name]
    path = made(folder, name)
    needed = fit_llama.sizes(path).need(context, slots).total
    used = measure("llama", Case(str(path), context, slots))
    assert used <= needed <= MOST * (used + RUNNER) + SLACK


def test_the_built_in_model() -> None:
    path = models_folder() / "tiny" / "tiny-q8_0.gguf"
    needed = fit_llama.sizes(path).need(1024, 4).total
    used = measure("llama", Case(str(path), 1024, 4))
    assert used <= needed <= MOST * (used + RUNNER) + SLACK


@pytest.mark.parametrize("name", SHAPES)
def test_the_cache_is_exactly_llama_cpps(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, context, slots = SHAPES[name]
    path = made(folder, name)
    said: list[str] = []
    monkeypatch.setattr(start_backend(), "listener", said.append)
    LlamaCppEngine.load(path, context_length=context, slots=slots, threads=1).close()
    (line,) = (line for line in "".join(said).splitlines() if "KV buffer size" in line)
    reckoned = fit_llama.Cells.of(read_header(path)).bytes * context * slots
    assert float(line.split("=")[1].split()[0]) == pytest.approx(reckoned / MIB, abs=0.01)


MAKERS = {
    "gpt_neox": (make_gpt_neox, "bfloat16"),
    "t5": (make_t5, "float32"),
    "llama": (make_llama, "int8"),
}


@pytest.mark.parametrize("model_type", MAKERS)
def test_torch_takes_no_more_than_reckoned(folder: Path, model_type: str) -> None:
    make, dtype = MAKERS[model_type]
    wide = (
        {"d_model": 512, "d_ff": 1024, "num_heads": 8, "d_kv": 64}
        if model_type == "t5"
        else {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    )
    path = make(folder / model_type, vocab_size=20_000, **wide)
    needed = fit_torch.sizes(path, dtype=dtype).need(512, 2).total
    used = measure("torch", Case(str(path), 512, 2, dtype, model_type))
    logging.getLogger(__name__).info("%s: used %d, reckoned %d", model_type, used, needed)
    assert used <= needed <= MOST * (used + RUNNER) + SLACK
