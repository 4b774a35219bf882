"""What is reckoned of checkpoints without torch, against what their parameters are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import EVERY, make_bloom, make_llama, make_t5
from transformers import AutoConfig

from open_llm_server.engine import fit_torch, processor
from open_llm_server.engine.fit_torch import Cache, sizes
from open_llm_server.engine.safetensors_header import read_header
from open_llm_server.errors import WeightsError


@pytest.fixture(autouse=True)
def _fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_torch, "fast_number", lambda: "bfloat16")


def stored(folder: Path) -> int:
    return sum(one.data_bytes for one in read_header(folder / "model.safetensors").tensors.values())


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_weights_in_each_number(tmp_path: Path, make: Callable[..., Path]) -> None:
    folder = make(tmp_path)  # in float32
    assert sizes(folder, dtype="float32").weights == stored(folder)
    on_gpu = sizes(folder, dtype="auto", gpu=True)
    assert on_gpu.weights == stored(folder) // 2
    assert on_gpu.host > on_gpu.weights


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_a_cache_as_the_library_spells_its_configuration(
    tmp_path: Path, make: Callable[..., Path]
) -> None:
    folder = make(tmp_path)
    written = json.loads((folder / "config.json").read_text())
    library: Any = AutoConfig.from_pretrained(folder)
    assert Cache.of(written) == Cache.of(library.to_dict())


def test_grouped_heads(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    # 3 layers, keys and values of 2 heads of 16 numbers.
    assert sizes(folder, dtype="bfloat16").token == 3 * 2 * 2 * 16 * 2
    assert sizes(folder, dtype="float32").token == 3 * 2 * 2 * 16 * 4
    assert sizes(folder, dtype="bfloat16").trained == 512


def test_an_encoder_decoder_keeps_prompts_and_answers(tmp_path: Path) -> None:
    found = sizes(make_t5(tmp_path), dtype="bfloat16")
    assert found.token == 2 * (2 * 2 * 4 * 16) * 2
    assert found.trained == fit_torch.DEFAULT_ENCODER_DECODER
    assert found.unbounded
    assert found.per_square


def test_tied_output_matrices_are_laid_out_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_bloom(tmp_path)
    table = read_header(folder / "model.safetensors").tensors
    (embedding,) = (table[name] for name in table if name.endswith("word_embeddings.weight"))
    half = stored(folder) // 2
    assert sizes(folder, dtype="bfloat16").weights == half + embedding.data_bytes // 2
    monkeypatch.setattr(fit_torch, "LARGE_HEAD_BYTES", 1)
    assert sizes(folder, dtype="bfloat16").weights == half


def test_eight_bits(tmp_path: Path) -> None:
    folder = make_llama(tmp_path, tie_word_embeddings=False)
    whole = sizes(folder, dtype="float32").weights
    eighth = sizes(folder, dtype="int8").weights
    assert whole / 4 < eighth < whole / 2


def test_what_this_processor_computes_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_llama(tmp_path)
    monkeypatch.setattr(fit_torch, "fast_number", lambda: "float32")
    assert sizes(folder, dtype="auto") == sizes(folder, dtype="float32")
    monkeypatch.setattr(fit_torch, "fast_number", lambda: "bfloat16")
    assert sizes(folder, dtype="auto") == sizes(folder, dtype="bfloat16")
    assert processor.fast_number() in ("float32", "bfloat16")


def test_adapters_take_their_part(tmp_path: Path) -> None:
    folder = make_llama(tmp_path / "model")
    adapter = make_llama(tmp_path / "adapter")
    plain, adapted = (
        sizes(folder, dtype="float32"),
        sizes(folder, dtype="float32", lora=[str(adapter)]),
    )
    assert adapted.loading > plain.loading + stored(adapter)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json"):
        sizes(tmp_path, dtype="auto")
