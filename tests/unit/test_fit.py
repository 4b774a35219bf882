"""The verdict on models and its words, on the sizes of real files with any amount of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from ggufs import SMALL, small

from open_llm_server import fit as fits
from open_llm_server.config.merge import resolve
from open_llm_server.config.resolved import ModelPlan
from open_llm_server.engine import fit_gpu, fit_llama
from open_llm_server.engine.fit_sizes import MIB
from open_llm_server.engine.gguf import read_header
from open_llm_server.errors import InsufficientMemory
from open_llm_server.fit import check_all, check_fit, fit

GIB = 1024 * MIB


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("fit"))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what is free in main memory."""

    def set_(count: int) -> None:
        monkeypatch.setattr(fits, "free_memory", lambda: count)

    set_(64 * GIB)
    return set_


def plan(model: Path, name: str = "one", **keywords: Any) -> ModelPlan:
    settings = {"context_length": 512, "slots": 4, **keywords}
    (found,) = resolve([f"{name}=llama@{model}"], flags=settings, environ={}, door="keyword").models
    return found


def on_gpu(model: Path, gpus: tuple[str, ...] = ("0",), **keywords: Any) -> ModelPlan:
    device = f"gpu:{'+'.join(gpus)}"
    return plan(model, **keywords).model_copy(update={"device": device, "gpus": gpus})


def test_a_model_that_fits(model: Path, memory: Any) -> None:
    found = fit(plan(model))
    assert found.need
    assert found.need.weights == sum(tensor.data_bytes for tensor in read_header(model).all_tensors)
    # 2 layers, keys and values of 64 numbers in 32 bits, 4 slots and 2 that move.
    assert found.need.cache == 2 * 2 * 64 * 4 * 512 * (4 + 2)
    assert found.place == "main memory"
    assert found.lacking is None
    assert found.most == 256  # more is not to be had from llama.cpp
    check_fit(plan(model))


def test_a_model_that_does_not_fit_says_both_numbers_and_the_ways_out(
    model: Path, memory: Any
) -> None:
    needed = fit(plan(model)).need
    assert needed
    memory(needed.total - 1)
    with pytest.raises(InsufficientMemory) as caught:
        check_fit(plan(model))
    assert caught.value.extra == {"needed": needed.total, "available": needed.total - 1}
    for word in ("main memory", "--context-length", "--slots", "3 would fit", "--device"):
        assert word in caught.value.message
    assert "--force" in caught.value.message
    memory(needed.total)
    check_fit(plan(model))


def test_nothing_of_it_fits(model: Path, memory: Any) -> None:
    memory(MIB)
    with pytest.raises(InsufficientMemory, match="--quantize"):
        check_fit(plan(model))


def test_force(model: Path, memory: Any) -> None:
    memory(MIB)
    check_fit(plan(model, force=True))
    check_all([plan(model, force=True), plan(model, "two", force=True)])


def test_models_that_fit_one_by_one_and_not_together(model: Path, memory: Any) -> None:
    one, two = plan(model), plan(model, "two")
    needed = fit(one).need
    assert needed
    memory(2 * needed.total - 1)
    check_all([one])
    with pytest.raises(InsufficientMemory) as caught:
        check_all([one, two])
    assert caught.value.extra == {"needed": 2 * needed.total, "available": 2 * needed.total - 1}
    assert "one" in caught.value.message and "two" in caught.value.message
    memory(2 * needed.total)
    check_all([one, two])


def test_without_a_wish_the_context_is_what_the_engine_chooses(model: Path, memory: Any) -> None:
    assert fit(plan(model, context_length=None)).context == SMALL.context_length


def test_what_no_header_tells_is_not_refused(memory: Any) -> None:
    memory(0)
    (fake,) = resolve(["fake"], environ={}, door="keyword").models
    assert fit(fake).need is None
    check_fit(fake)


def test_a_gpu_that_says_nothing_refuses_nothing(
    model: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_gpu, "ask", dict)
    found = fit(on_gpu(model))
    assert found.available is None
    assert found.longest is None
    check_fit(on_gpu(model))


def test_a_gpu_that_is_too_small(model: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_gpu, "ask", lambda: {"0": 8 * MIB, "1": 16 * GIB})
    with pytest.raises(InsufficientMemory, match="GPU 0"):
        check_fit(on_gpu(model))
    check_fit(on_gpu(model, ("1",)))
    check_fit(on_gpu(model, ("0", "1")))


def test_main_memory_beside_a_gpu(
    model: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_gpu, "ask", lambda: {"0": 16 * GIB})
    memory(8 * MIB)
    with pytest.raises(InsufficientMemory, match="main memory"):
        check_fit(on_gpu(model))


def test_two_models_on_one_gpu(model: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = fit(on_gpu(model)).need
    assert needed
    monkeypatch.setattr(fit_gpu, "ask", lambda: {"0": 2 * needed.total - 1, "1": GIB * 16})
    with pytest.raises(InsufficientMemory, match="GPU 0"):
        check_all([on_gpu(model), on_gpu(model, name="two")])
    check_all([on_gpu(model), on_gpu(model, ("1",), name="two")])


def header(folder: Path, tensors: dict[str, tuple[int, ...]], **counts: Any) -> Path:
    """A file with `tensors` of zeros (outputs, inputs), and `counts` among its metadata."""
    path = folder / "made.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(1024)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_head_count(4)
    for name, count in counts.items():
        key = f"llama.attention.{name}"
        if isinstance(count, list):
            writer.add_array(key, count)
        else:
            writer.add_uint32(key, count)
    for name, shape in tensors.items():
        writer.add_tensor(name, np.zeros(shape, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


GROUPED = {f"blk.{layer}.attn_{part}.weight": (16, 64) for layer in (0, 1) for part in "kv"}
UNEVEN = {
    "blk.0.attn_k.weight": (16, 64),
    "blk.0.attn_v.weight": (32, 64),
    "blk.1.attn_k.weight": (64, 64),
    "blk.1.attn_v.weight": (64, 64),
}
FUSED = {f"blk.{layer}.attn_qkv.weight": (64 + 32, 64) for layer in (0, 1)}


@pytest.mark.parametrize(
    ("tensors", "counts", "values"),
    [
        (GROUPED, {"head_count_kv": 1}, 2 * 32),
        (UNEVEN, {"head_count_kv": [1, 4]}, 48 + 128),
        (FUSED, {"head_count_kv": 1}, 2 * 32),
        (FUSED, {"head_count_kv": [1, 1]}, 2 * 32),
        (FUSED, {}, 2 * 128),
        (FUSED, {"head_count_kv": 1, "key_length": 24, "value_length": 8}, 2 * 32),
    ],
)
def test_keys_and_values_by_tensors_or_by_counts(
    tmp_path: Path, tensors: dict[str, tuple[int, ...]], counts: dict[str, Any], values: int
) -> None:
    path = header(tmp_path, {"token_embd.weight": (10, 64), **tensors}, **counts)
    cells = fit_llama.Cells.of(read_header(path))
    assert cells.values == values
    assert cells.bytes == 2 * values
