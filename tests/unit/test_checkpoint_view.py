"""What a library sees of a folder: weights as links, plain settings, nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from open_llm_server.engine.checkpoint_view import adapter_view, model_view, tokenizer_view
from open_llm_server.engine.torch_checkpoint import Checkpoint, read_json
from open_llm_server.errors import WeightsError
from open_llm_server.supervisor_sockets import runtime_folder

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 8,
    "rope_scaling": {"rope_type": "linear", "factor": 2.0, "impl": {"code": "evil"}},
    "hidden_act": {"impl": "evil"},
    "auto_map": {"AutoModel": "evil.Model"},
    "_attn_implementation_internal": "someone/kernel",
    "quantization_config": {"quant_method": "someone's"},
    "a key of next year": "do something",
}


def checkpoint(folder: Path, config: dict[str, Any] = CONFIG) -> Checkpoint:
    """A folder with everything in it that can be in one."""
    (folder / "config.json").write_text(json.dumps(config))
    names = [
        *("generation_config.json", "adapter_config.json", "chat_template.jinja", "tokenizer.json"),
        *("model.safetensors", "pytorch_model.bin", "modeling_evil.py", ".metadata", "vocab.txt"),
    ]
    for name in names:
        (folder / name).write_text("{}")
    (folder / "custom_generate").mkdir()
    return Checkpoint(folder, config, {})


def test_a_models_view(tmp_path: Path) -> None:
    with model_view(checkpoint(tmp_path)) as view:
        assert {path.name for path in view.iterdir()} == {"config.json", "model.safetensors"}
        assert (view / "model.safetensors").samefile(tmp_path / "model.safetensors")
        assert read_json(view / "config.json") == {
            "model_type": "llama",
            "vocab_size": 8,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        }
    assert not view.exists()
    assert (tmp_path / "model.safetensors").exists()


def test_a_server_that_starts_meanwhile_leaves_it(tmp_path: Path) -> None:
    """Servers remove what dead ones left; a view that is in use is none of that."""
    with model_view(checkpoint(tmp_path)) as view:
        with runtime_folder():
            pass
        assert (view / "config.json").is_file()


def test_a_view_of_weights_in_parts(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    whole = checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    for name in [*names, "other.safetensors"]:
        (tmp_path / name).touch()
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with model_view(whole) as view:
        assert {path.name for path in view.iterdir()} == {
            *names,
            "config.json",
            "model.safetensors.index.json",
        }


def test_one_part_needs_its_index_too(tmp_path: Path) -> None:
    name = "model-00001-of-00001.safetensors"
    whole = checkpoint(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with model_view(whole) as view:
        assert (view / "model.safetensors.index.json").is_file()


def test_a_tokenizers_view(tmp_path: Path) -> None:
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "pad_token": {"content": "[PAD]"},
        "added_tokens_decoder": {"0": {"content": "[PAD]"}},
        "auto_map": {"AutoTokenizer": ["evil.T", None]},
        "tokenizer_file": "/etc/passwd",
        "chat_template": "{{ evil }}",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with tokenizer_view(checkpoint(tmp_path)) as view:
        assert {path.name for path in view.iterdir()} == {
            *("config.json", "tokenizer_config.json", "tokenizer.json", "vocab.txt")
        }
        shown = read_json(view / "tokenizer_config.json")
    assert set(shown) == {"tokenizer_class", "do_lower_case", "pad_token", "added_tokens_decoder"}


def test_an_adapters_view(tmp_path: Path) -> None:
    settings = {
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["q_proj"],
        "rank_pattern": {"q_proj": 2, "evil": {"a": 1}},
        "base_model_name_or_path": "someone/else",
        "auto_mapping": {"parent_library": "evil"},
        "megatron_core": "evil",
        "megatron_config": {"a": 1},
    }
    checkpoint(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter_model.safetensors").touch()
    (tmp_path / "adapter_model.bin").touch()
    with adapter_view(tmp_path) as view:
        assert {path.name for path in view.iterdir()} == {
            *("adapter_config.json", "adapter_model.safetensors")
        }
        assert read_json(view / "adapter_config.json") == {
            "peft_type": "LORA",
            "r": 4,
            "target_modules": ["q_proj"],
            "rank_pattern": {"q_proj": 2},
            "inference_mode": True,
        }


@pytest.mark.parametrize("kind", ["gpt2", None, 3, ["llama"]])
def test_a_type_without_a_list_is_not_shown(tmp_path: Path, kind: object) -> None:
    whole = checkpoint(tmp_path, {"model_type": kind})
    with pytest.raises(WeightsError, match="not computed here"), model_view(whole):
        pass
