"""Weights as they are in the file, whole, on a device that is there; adapters that fit, merged."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from checkpoints import EVERY, make_bert, make_gpt_neox, make_llama, make_t5
from safetensors.torch import load_file, save_file

from open_llm_server.engine import processor, torch_lora
from open_llm_server.engine.checkpoint_view import ADAPTER, ADAPTER_WEIGHTS
from open_llm_server.engine.torch_checkpoint import read_checkpoint
from open_llm_server.engine.torch_load import choose_dtype, load_model
from open_llm_server.engine.torch_quiet import quiet
from open_llm_server.errors import ConfigurationError, WeightsError

pytestmark = pytest.mark.weights

TYPES = {"t5", "bloom", "gpt_neox", "stablelm", "llama", "bert"}
ATTENTION = {
    "flan-t5": ["q", "v", "wo"],
    "llama": ["q_proj", "down_proj"],
    "gpt-neox": ["query_key_value"],
}


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    checkpoint = read_checkpoint(folder, model_types=TYPES)
    return load_model(checkpoint, **{"dtype": dtype, "device": "cpu", **options})


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def tokens() -> torch.Tensor:
    return torch.tensor([[5, 20, 45, 60, 71]])


def logits(model: Any) -> torch.Tensor:
    more = {"decoder_input_ids": tokens()} if model.config.is_encoder_decoder else {}
    result: torch.Tensor = model(tokens(), **more)[0]
    return result


def make_adapter(folder: Path, base: Path, targets: list[str], seed: int = 1) -> Path:
    """A LoRA adapter whose every matrix is random."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets)
    model = load(base)
    with quiet():  # the newest libraries warn of each other
        wrapped = peft.get_peft_model(model, config)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.2)
    wrapped.save_pretrained(str(folder))
    return folder


# -- weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_weights_are_those_of_the_file(name: str, tmp_path: Path) -> None:
    model = load(EVERY[name](tmp_path))
    held = model.state_dict()
    for key, value in load_file(tmp_path / "model.safetensors").items():
        # The library's name for GPT-NeoX's output weights since its version 5.
        assert torch.equal(held[key.replace("embed_out", "lm_head")], value)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_all_parameters_have_the_precision(name: str, tmp_path: Path) -> None:
    model = load(EVERY[name](tmp_path), torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.buffers() if buffer.is_floating_point()} <= {
        torch.float32,  # Angles of rotary positions keep all their digits.
        torch.bfloat16,
    }


def test_t5_does_not_fit_into_float16(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="bfloat16"):
        load(make_t5(tmp_path), torch.float16)


def test_shards(tmp_path: Path) -> None:
    whole = load(make_llama(tmp_path / "whole"))
    whole.save_pretrained(tmp_path / "parts", max_shard_size="200KB")
    (tmp_path / "parts" / "tokenizer.json").touch()
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    assert torch.equal(logits(load(tmp_path / "parts")), logits(whole))


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    change_weights(make_gpt_neox(tmp_path), lambda weights: weights.pop(name))
    with pytest.raises(WeightsError, match=f"lack {name}"):
        load(tmp_path)


def test_bert_needs_no_pooler(tmp_path: Path) -> None:
    def drop(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if name.startswith("pooler.")]:
            del weights[name]

    change_weights(make_bert(tmp_path), drop)
    load(tmp_path)


def test_more_weights_than_needed(tmp_path: Path) -> None:
    change_weights(make_gpt_neox(tmp_path), lambda weights: weights.update(other=torch.zeros(2, 2)))
    load(tmp_path)


@pytest.mark.parametrize(
    "values",
    [{"hidden_size": 32}, {"num_hidden_layers": 5}, {"vocab_size": 999}, {"hidden_act": "none"}],
)
def test_a_configuration_of_another_model(tmp_path: Path, values: dict[str, Any]) -> None:
    change_config(make_gpt_neox(tmp_path), **values)
    with pytest.raises(WeightsError, match=r"check that config\.json belongs to these weights"):
        load(tmp_path)


def test_loading_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    make_gpt_neox(tmp_path)
    change_weights(tmp_path, lambda weights: weights.update(other=torch.zeros(2, 2)))
    transformers.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # theirs
    try:
        with caplog.at_level(logging.DEBUG, logger="open_llm_server"):
            load(tmp_path)
        assert transformers.utils.logging.is_progress_bar_enabled()
    finally:
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # theirs
    assert capfd.readouterr() == ("", "")
    assert "other" in caplog.text
    assert all(record.levelno == logging.DEBUG for record in caplog.records)


# -- adapters --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTENTION)
def test_an_adapter_is_merged(name: str, tmp_path: Path) -> None:
    base = EVERY[name](tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base, ATTENTION[name])
    merged = load(base, lora=[adapter])
    plain = load(base)
    with quiet():
        beside = peft.PeftModel.from_pretrained(load(base), str(adapter)).eval()
    assert type(merged) is type(plain)
    torch.testing.assert_close(logits(merged), logits(beside), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(merged), logits(plain), atol=0.1)
    assert not any("lora" in key for key in merged.state_dict())
    assert not any(parameter.requires_grad for parameter in merged.parameters())


def test_adapters_add_up(tmp_path: Path) -> None:
    base = make_llama(tmp_path / "base")
    folders = [make_adapter(tmp_path / str(seed), base, ["q_proj"], seed) for seed in (1, 2)]
    both = load(base, lora=[str(folder) for folder in folders]).state_dict()
    plain, *single = (load(base, lora=lora).state_dict() for lora in ([], *([f] for f in folders)))
    for key, value in plain.items():
        wanted = value + sum(one[key] - value for one in single)
        torch.testing.assert_close(both[key], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"num_hidden_layers": 2}])
def test_an_adapter_of_another_size(tmp_path: Path, change: dict[str, int]) -> None:
    adapter = make_adapter(tmp_path / "adapter", make_llama(tmp_path / "base"), ["q_proj"])
    other = make_llama(tmp_path / "other", **change)
    with pytest.raises(WeightsError, match=f"{adapter} does not fit the model"):
        load(other, lora=[adapter])


def test_an_adapter_for_fewer_layers(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", make_llama(tmp_path / "base"), ["q_proj"])
    other = make_llama(tmp_path / "other", num_hidden_layers=4)
    with pytest.raises(WeightsError, match=r"it lacks .*layers\.3"):
        load(other, lora=[adapter])


def test_an_adapter_of_another_architecture(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", make_llama(tmp_path / "base"), ["q_proj"])
    with pytest.raises(WeightsError, match="does not fit the model"):
        load(make_gpt_neox(tmp_path / "other"), lora=[adapter])


def test_an_adapter_that_is_not_numbers(tmp_path: Path) -> None:
    base = make_llama(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base, ["q_proj"])
    path = adapter / ADAPTER_WEIGHTS
    weights = {name: torch.full_like(value, torch.nan) for name, value in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="not numbers"):
        load(base, lora=[adapter])


def test_adapters_are_not_unpickled(tmp_path: Path) -> None:
    base = make_llama(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base, ["q_proj"])
    (adapter / ADAPTER_WEIGHTS).rename(adapter / "adapter_model.bin")
    with pytest.raises(WeightsError, match="pickled"):
        load(base, lora=[adapter])


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "there is no adapter_config.json"), ({"peft_type": "IA3"}, "only LORA")],
)
def test_folders_that_hold_no_adapter(
    tmp_path: Path, content: dict[str, str] | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / ADAPTER).write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=reason):
        torch_lora.check_adapter(tmp_path)


def test_a_gguf_adapter_is_for_another_engine(tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    path.touch()
    with pytest.raises(WeightsError, match="GGUF models"):
        torch_lora.check_adapter(path)


def test_without_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_llama(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'open-llm-server\[torch\]'"):
        load(base, lora=[tmp_path])


# -- devices and precisions ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "named"),
    [
        ("cuda:99", "there is no GPU 99 here"),
        ("cuda", "no kind of device 'cuda'"),
        ("cuda:-1", "no kind of device"),
        ("tpu:0", "no kind of device 'tpu:0'"),
        ("", "no kind of device ''"),
    ],
)
def test_a_device_that_is_not_there(tmp_path: Path, device: str, named: str) -> None:
    base = make_gpt_neox(tmp_path)
    with pytest.raises(ConfigurationError, match=named) as caught:
        load(base, device=device)
    assert "there is: cpu" in caught.value.message
    with pytest.raises(ConfigurationError, match=named):
        choose_dtype("auto", device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_all_gpus_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no GPU here; there is: cpu"):
        load(make_gpt_neox(tmp_path), device="auto")


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_a_precision_by_name(name: str, dtype: torch.dtype) -> None:
    assert choose_dtype(name, "cpu") is dtype


@pytest.mark.parametrize("name", ["", "half", "int3", "Float32"])
def test_a_precision_that_is_none(name: str) -> None:
    with pytest.raises(ConfigurationError, match="use auto, float32, bfloat16, float16"):
        choose_dtype(name, "cpu")


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets what the CPU says of itself."""

    def says(flags: str) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\n")
        monkeypatch.setattr(processor, "CPUINFO", path)
        processor.cpu_flags.cache_clear()

    return says


@pytest.fixture(autouse=True)
def forget_the_cpu() -> Iterator[None]:
    yield
    processor.cpu_flags.cache_clear()


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("avx2 avx512f", torch.float32),
        ("avx512f avx512_bf16", torch.bfloat16),
        ("amx_tile amx_bf16", torch.bfloat16),
        ("", torch.float32),
    ],
)
def test_the_cpu_decides_about_auto(
    flags: str, dtype: torch.dtype, cpu: Callable[[str], None]
) -> None:
    cpu(flags)
    assert choose_dtype("auto", "cpu") is dtype


def test_float16_only_where_the_cpu_computes_with_it(cpu: Callable[[str], None]) -> None:
    cpu("avx512_bf16 avx512_fp16")
    assert choose_dtype("float16", "cpu") is torch.float16
    cpu("avx512_bf16")
    with pytest.raises(ConfigurationError, match="--dtype bfloat16"):
        choose_dtype("float16", "cpu")


def test_a_system_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "CPUINFO", Path("/nowhere"))
    processor.cpu_flags.cache_clear()
    assert choose_dtype("auto", "cpu") is torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("device", ["cuda:0", "auto"])
def test_on_a_gpu(tmp_path: Path, device: str) -> None:
    base = make_t5(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base, ["q", "v"])
    dtype = choose_dtype("auto", device)
    model = load(base, dtype, device=device, lora=[adapter])
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    wanted = load(base, lora=[adapter]).state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value.float().cpu(), wanted[key], atol=0.05, rtol=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_more_gpus_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="99 GPUs are wanted"):
        load(make_t5(tmp_path), device="auto", gpus=99)
