"""Checkpoints stored in 8 bits: loaded, they compute what `--dtype int8` makes of the original."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from open_llm_server.engine import int8_format, torch_int8
from open_llm_server.engine.base import Batch, Draw, Row
from open_llm_server.engine.safetensors_header import read_header
from open_llm_server.engine.torch_checkpoint import WEIGHTS, Checkpoint, read_checkpoint
from open_llm_server.engine.torch_engine import TorchEngine
from open_llm_server.engine.torch_load import load_model
from open_llm_server.errors import ConfigurationError, WeightsError
from open_llm_server.store import measure

KINDS: dict[str, tuple[Callable[..., Path], dict[str, Any]]] = {
    "t5": (checkpoints.make_t5, {}),
    "t5-tied": (checkpoints.make_t5, {"tie_word_embeddings": True, "feed_forward_proj": "relu"}),
    "bloom": (checkpoints.make_bloom, {}),
    "gpt-neox": (checkpoints.make_gpt_neox, {}),
    "stablelm": (checkpoints.make_stablelm, {"qk_layernorm": True}),
    "llama": (checkpoints.make_llama, {}),
}
STEPS = 8


def opened(folder: Path) -> Checkpoint:
    types = [json.loads((folder / "config.json").read_text())["model_type"]]
    return read_checkpoint(folder, model_types=types)


def stored(folder: Path, kept: torch.dtype = torch.float32) -> Path:
    """A copy of the checkpoint in `folder`, in 8 bits."""
    new = folder.with_name(f"{folder.name}-int8")
    new.mkdir()
    model = load_model(opened(folder), dtype=torch.float32, device="cpu")
    counts: list[int] = []
    torch_int8.save(model, new / WEIGHTS, kept=kept, told=counts.append)
    assert sum(counts) == torch_int8.bytes_of(model, kept)
    for path in folder.iterdir():
        if path.name != WEIGHTS:
            (new / path.name).write_bytes(path.read_bytes())
    int8_format.mark(folder / "config.json", new / "config.json")
    return new


def load(folder: Path, dtype: str) -> TorchEngine:
    checkpoint = opened(folder)
    return TorchEngine.load(
        folder,
        model_types=[checkpoint.model_type],
        context_length=64,
        slots=2,
        threads=1,
        dtype=dtype,
    )


def answer(folder: Path, dtype: str) -> tuple[list[int], list[float]]:
    """Greedy tokens and their log-probabilities."""
    engine = load(folder, dtype)
    prompt = [3, 5, 7, 11, *engine.limits.prompt_suffix]
    row = Row(0, prompt, 0, Draw(prompt=prompt, logprobs=0))
    tokens, logprobs = [], []
    for _ in range(STEPS):
        (outcome,) = engine.step(Batch(rows=[row]))
        assert outcome.token is not None
        assert outcome.score
        tokens.append(outcome.token)
        logprobs.append(outcome.score.logprob)
        row = Row(0, [outcome.token], row.start + len(row.tokens), row.draw)
    engine.close()
    return tokens, logprobs


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_int8_makes_of_the_original(kind: str, tmp_path: Path) -> None:
    make, config = KINDS[kind]
    folder = make(tmp_path / "model", **config)
    new = stored(folder)
    assert (new / WEIGHTS).stat().st_size < 0.6 * (folder / WEIGHTS).stat().st_size
    tokens, logprobs = answer(folder, "int8")
    for dtype in ("auto", "int8"):
        found = answer(new, dtype)
        assert found[0] == tokens
        assert found[1] == pytest.approx(logprobs, abs=1e-5)


def test_weights_may_become_wide_again(tmp_path: Path) -> None:
    """For devices that have no products in 8 bits."""
    folder = checkpoints.make_gpt_neox(tmp_path / "model")
    new = stored(folder)
    wide = load_model(opened(folder), dtype=torch.float32, device="cpu")
    again: Any = load_model(opened(new), dtype=torch.float32, device="cpu")
    table = dict(wide.named_modules())
    for name, module in again.named_modules():
        if isinstance(module, torch_int8.StoredLinear):
            weight = table[name].weight
            error = (module.weight - weight).abs().amax(dim=1)
            assert (error <= weight.abs().amax(dim=1) / 253).all()
    assert not again.training
    assert len(answer(new, "float32")[0]) == STEPS


def test_what_is_in_the_file(tmp_path: Path) -> None:
    new = stored(checkpoints.make_bloom(tmp_path / "model"), kept=torch.bfloat16)
    tensors = read_header(new / WEIGHTS).tensors
    name = "transformer.h.0.mlp.dense_h_to_4h.weight"
    assert (tensors[name].dtype, tensors[name].shape) == ("I8", (256, 64))
    assert (tensors[name + "_scale"].dtype, tensors[name + "_scale"].shape) == ("F32", (256,))
    assert tensors["transformer.word_embeddings.weight"].dtype == "BF16"
    assert "lm_head.weight" not in tensors
    assert load_file(new / WEIGHTS)[name].abs().amax() == 127


def test_the_library_by_itself_refuses_such_a_folder(tmp_path: Path) -> None:
    new = stored(checkpoints.make_t5(tmp_path / "model"))
    with pytest.raises((ValueError, KeyError)):
        AutoModelForSeq2SeqLM.from_pretrained(new)


def test_other_quantisations_are_refused(tmp_path: Path) -> None:
    folder = checkpoints.make_bloom(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for other in ({**int8_format.METHOD, "format": 2}, {"quant_method": "gptq"}):
        (folder / "config.json").write_text(json.dumps(config | {int8_format.KEY: other}))
        with pytest.raises(WeightsError, match="are quantised"):
            opened(folder)


def test_adapters_and_several_gpus_are_refused(tmp_path: Path) -> None:
    new = stored(checkpoints.make_bloom(tmp_path / "model"))
    with pytest.raises(ConfigurationError, match="without --quantize"):
        load_model(opened(new), dtype=torch.float32, device="cpu", lora=[tmp_path])


BAD: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "lack transformer.ln_f.weight": lambda held: held.pop("transformer.ln_f.weight"),
    "another shape": lambda held: held.update({"transformer.ln_f.weight": torch.ones(3)}),
    "no place": lambda held: held.update({"transformer.nothing.weight": torch.ones(3)}),
    "not stored in 8 bits": lambda held: held.update(
        {"transformer.h.0.mlp.dense_h_to_4h.weight_scale": torch.ones(3)}
    ),
}


@pytest.mark.parametrize("words", BAD)
def test_damage_is_named(words: str, tmp_path: Path) -> None:
    new = stored(checkpoints.make_bloom(tmp_path / "model"))
    held = load_file(new / WEIGHTS)
    BAD[words](held)
    (new / WEIGHTS).unlink()
    save_file(held, new / WEIGHTS)
    with pytest.raises(WeightsError, match=words):
        load(new, "auto")


def test_perplexity_of_an_encoder_decoder_is_the_librarys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints.make_t5(tmp_path / "model")
    engine = load(folder, "float32")
    monkeypatch.setattr(measure, "HALF", 6)
    tokens = list(range(10, 10 + 3 * 12 + 5))
    counts: list[int] = []
    found = measure.perplexity_of(engine, tokens, counts.append)
    assert sum(counts) == len(tokens) - 1
    model: Any = load_model(opened(folder), dtype=torch.float32, device="cpu")
    total = 0.0
    for at in (0, 12, 24):
        prompt = [*tokens[at : at + 6], *engine.limits.prompt_suffix[:-1]]
        labels = torch.tensor([tokens[at + 6 : at + 12]])
        total += float(model(input_ids=torch.tensor([prompt]), labels=labels).loss)
    assert found == pytest.approx(math.exp(total / 3), rel=1e-4)
    assert "the decoder is scored on the second" in measure.describe(engine, tokens)
    engine.close()


def test_speed_is_measured_with_one_and_several_answers(tmp_path: Path) -> None:
    for make in (checkpoints.make_t5, checkpoints.make_gpt_neox):
        engine = load(make(tmp_path / make.__name__), "float32")
        tokens = [place % 50 + 10 for place in range(100)]
        for streams in (1, 2):
            assert 0 < measure.speed(engine, tokens, streams) < math.inf
        assert len(engine.step(Batch(rows=[Row(0, [*tokens[:5], 0], 0)]))) == 1
        engine.close()
