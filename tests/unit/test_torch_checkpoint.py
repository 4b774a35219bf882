"""What the light gate says of a checkpoint's folder, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from open_llm_server.engine.torch_checkpoint import Checkpoint, model_bytes, read_checkpoint
from open_llm_server.errors import WeightsError

CONFIG = {"model_type": "t5", "vocab_size": 4}


def tensors(path: Path, *names: str) -> Path:
    """A file with some tensors of two numbers each."""
    names = names or ("weight",)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for place, name in enumerate(names):
        offsets = [8 * place, 8 * place + 8]
        header[name] = {"dtype": "F32", "shape": [2], "data_offsets": offsets}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8 * len(names)))
    return path


def put(folder: Path, **contents: Any) -> None:
    """Writes `name=object` as name.json."""
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path, config=CONFIG, generation_config={"eos_token_id": 1}, tokenizer={})
    tensors(tmp_path / "model.safetensors")
    return tmp_path


PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def shard(folder: Path, *names: str) -> None:
    """An index that finds `layer.0` in the first of `names`, `layer.1` in the second, …"""
    (folder / "model.safetensors").unlink()
    table = {f"layer.{place}": name for place, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def read(folder: Path) -> Checkpoint:
    return read_checkpoint(folder, model_types={"t5"})


def refusal(folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read(folder)
    return caught.value.message


def test_a_whole_checkpoint(folder: Path) -> None:
    checkpoint = read(folder)
    assert checkpoint.folder == folder
    assert checkpoint.config == CONFIG
    assert checkpoint.generation == {"eos_token_id": 1}
    assert checkpoint.model_type == "t5"
    assert model_bytes(checkpoint) == (folder / "model.safetensors").stat().st_size


def test_a_generation_config_is_not_needed(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    assert read(folder).generation == {}


def test_shards_count_together(folder: Path) -> None:
    shard(folder, PARTS[1], PARTS[0], PARTS[1])
    tensors(folder / PARTS[0], "layer.1")
    tensors(folder / PARTS[1], "layer.0", "layer.2", "a tensor that the index leaves out")
    tensors(folder / "other.safetensors")
    checkpoint = read(folder)
    assert [path.name for path in checkpoint.weights] == [*PARTS]
    assert model_bytes(checkpoint) == sum((folder / name).stat().st_size for name in PARTS)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (["layer.1"], ["layer.0"], f"{PARTS[0]} does not hold layer.0"),
        (["layer.0"], ["other"], f"{PARTS[1]} does not hold layer.1"),
        (["layer.0", "layer.1"], ["layer.1"], "both hold layer.1"),
    ],
)
def test_parts_that_belong_elsewhere(
    folder: Path, first: list[str], second: list[str], words: str
) -> None:
    shard(folder, *PARTS)
    tensors(folder / PARTS[0], *first)
    tensors(folder / PARTS[1], *second)
    message = refusal(folder)
    assert words in message
    assert "download" in message


def test_one_part_alone_is_held_against_the_index(folder: Path) -> None:
    shard(folder, "model-00001-of-00001.safetensors")
    tensors(folder / "model-00001-of-00001.safetensors", "another")
    assert "does not hold layer.0" in refusal(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard(folder, *PARTS)
    tensors(folder / PARTS[0], "layer.0")
    message = refusal(folder)
    assert "1 of the 2 files" in message
    assert "model-00002-of-00002.safetensors" in message


@pytest.mark.parametrize(
    "name",
    [*("../model.safetensors", "/model.safetensors", "model.bin", 3), [PARTS[0]], {}, None, True],
)
def test_shards_lie_in_the_folder(folder: Path, name: object) -> None:
    shard(folder, name)  # type: ignore[arg-type]  # what a broken file may hold
    assert "does not say which" in refusal(folder)


@pytest.mark.parametrize("table", [None, {}, [], 3, "a", {"": []}])
def test_an_index_without_a_table(folder: Path, table: object) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    assert "download it again" in refusal(folder)


def test_a_gguf_file_is_for_llama(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.touch()
    assert f"start llama@{path}" in refusal(path)
    assert f"start llama@{path}" in refusal(tmp_path)


def test_a_file_instead_of_its_folder(folder: Path) -> None:
    assert "name the checkpoint's folder" in refusal(folder / "config.json")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no folder" in refusal(tmp_path / "none")


def test_a_folder_without_config(tmp_path: Path) -> None:
    assert "there is no config.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("model_type", "family"),
    [
        ("bloom", "family bloom serves it"),
        ("gpt_neox", "family gpt-neox"),
        ("stablelm", "family stablelm serves it"),
        ("llama", "family llama (as a GGUF file) serves it"),
        ("bert", "family minilm"),
        ("whisper", "open-llm-server models"),
    ],
)
def test_another_type_names_its_family(folder: Path, model_type: str, family: str) -> None:
    put(folder, config={"model_type": model_type})
    message = refusal(folder)
    assert repr(model_type) in message
    assert "reads 't5'" in message
    assert family in message


@pytest.mark.parametrize("model_type", [None, "", 3, ["t5"]])
def test_no_type(folder: Path, model_type: object) -> None:
    put(folder, config={"model_type": model_type})
    assert "names no model_type" in refusal(folder)


@pytest.mark.parametrize("name", ["config", "generation_config", "tokenizer_config"])
@pytest.mark.parametrize(
    "content", [{"auto_map": {"AutoModel": "m.M"}}, {"text_config": [{"auto_map": {}}]}]
)
def test_code_of_its_own_is_never_run(folder: Path, name: str, content: dict[str, Any]) -> None:
    put(folder, **{name: {**CONFIG, **content}})
    message = refusal(folder)
    assert f"{name}.json asks for code of its own" in message


ASKING: dict[str, tuple[str, dict[str, Any]]] = {
    "another attention": ("config", {"_attn_implementation": "someone/kernel"}),
    "internal attention": ("config", {"_attn_implementation_internal": "someone/kernel"}),
    "attention of a part": ("config", {"text": {"attn_implementation": {"": "a/b"}}}),
    "experts": ("config", {"experts_implementation": "someone/kernel"}),
    "kernels": ("config", {"kernel_config": {"RMSNorm": "someone/kernel:Norm"}}),
    "fusion": ("config", {"fusion_config": {"mlp": True}}),
    "another file": ("config", {"transformers_weights": "../other.bin"}),
    "trust": ("sentence_bert_config", {"model_args": {"trust_remote_code": True}}),
    "generation": ("generation_config", {"custom_generate": "someone/program"}),
    "processor": ("processor_config", {"auto_map": {"AutoProcessor": "p.P"}}),
    "tokenizer's class": ("tokenizer_config", {"tokenizer_class": "someone/code--t.T"}),
    "a template's name": (
        "tokenizer_config",
        {"chat_template": [{"name": "../x", "template": "{{ 1 }}"}]},
    ),
    "names of templates": ("tokenizer_config", {"chat_template": {"/etc/x": "{{ 1 }}"}}),
    "an adapter": ("adapter_config", {"auto_mapping": {"parent_library": "evil"}}),
    "an adapter's helper": ("adapter_config", {"megatron_core": "evil"}),
}


@pytest.mark.parametrize("trick", ASKING)
def test_whatever_asks_for_code_is_refused(folder: Path, trick: str) -> None:
    name, content = ASKING[trick]
    put(folder, **{name: {**CONFIG, **content}})
    message = refusal(folder)
    assert f"{name}.json asks for code of its own" in message
    assert "use a checkpoint" in message


HARMLESS: dict[str, tuple[str, dict[str, Any]]] = {
    # As published: Dolly 2 names a pipeline, whose code is never fetched.
    "a pipeline": (
        "config",
        {"custom_pipelines": {"text-generation": {"impl": "instruct_pipeline.Pipeline"}}},
    ),
    "attention of the library": ("config", {"_attn_implementation": "flash_attention_2"}),
    "attention left open": ("config", {"attn_implementation": None}),
    "an old flag": ("config", {"_attn_implementation_autoset": True}),
    "no trust": ("config", {"trust_remote_code": False}),
    "tasks": ("config", {"task_specific_params": {"summarization": {"prefix": "summarize: "}}}),
    "words": ("added_tokens", {"kernels": 4, "auto_mapping": 5}),
    "an adapter as peft writes it": (
        "adapter_config",
        {
            "auto_mapping": {"parent_library": "transformers.models.t5.modeling_t5"},
            "megatron_core": "megatron.core",
        },
    ),
    "templates by name": (
        "tokenizer_config",
        {"chat_template": [{"name": "tool_use", "template": "{{ 1 }}"}]},
    ),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_real_checkpoints_hold_is_taken(folder: Path, case: str) -> None:
    name, content = HARMLESS[case]
    put(folder, **{name: {**(CONFIG if name == "config" else {}), **content}})
    read(folder)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"type": "evil.Transformer", "path": ""}, "is no class of sentence_transformers"),
        ({"type": "sentence_transformers.models.Pooling", "path": "../up"}, "leads out"),
        ({"type": "sentence_transformers.models.Pooling", "path": "/etc"}, "leads out"),
        ("Transformer", "is no class"),
    ],
)
def test_steps_are_those_of_the_library(folder: Path, step: object, words: str) -> None:
    (folder / "modules.json").write_text(json.dumps([step]))
    assert words in refusal(folder)


def test_the_settings_of_a_step_are_read_too(folder: Path) -> None:
    step = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}
    (folder / "modules.json").write_text(json.dumps([step]))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"trust_remote_code": true}')
    assert "1_Pooling/config.json asks for code" in refusal(folder)


def test_programs_beside_a_checkpoint_mean_nothing(folder: Path) -> None:
    (folder / "modeling_t5.py").write_text("raise SystemExit")
    read(folder)


def test_deep_files(folder: Path) -> None:
    content: dict[str, Any] = {}
    for _ in range(100):
        content = {"a": content}
    put(folder, config={**CONFIG, **content})
    assert "levels" in refusal(folder)


def test_quantised_weights(folder: Path) -> None:
    put(folder, config={**CONFIG, "quantization_config": {"quant_method": "gptq"}})
    assert "quantised" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pytorch_model.bin", "--convert-pickles"),
        ("pytorch_model-00001-of-00002.bin", "--convert-pickles"),
        ("model.pt", "convert them to model.safetensors"),
    ],
)
def test_pickles_are_refused_with_a_way_out(folder: Path, name: str, words: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).touch()
    message = refusal(folder)
    assert name in message
    assert words in message
    assert "FAMILY" not in message


def test_pickles_beside_safetensors_do_not_matter(folder: Path) -> None:
    (folder / "pytorch_model.bin").touch()
    read(folder)


def test_an_adapter_is_no_model(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    put(folder, adapter_config={})
    assert f"--lora {folder}" in refusal(folder)


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "there is no model.safetensors" in refusal(folder)


def test_a_pointer_instead_of_weights(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n"
    (folder / "model.safetensors").write_text(text)
    assert "git lfs pull" in refusal(folder)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 20, -1])
def test_a_download_that_stopped(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "cut short" in refusal(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_weights_that_may_not_be_read(folder: Path) -> None:
    (folder / "model.safetensors").chmod(0)
    assert "check its permissions" in refusal(folder)


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "there is no tokenizer.json" in refusal(folder)


@pytest.mark.parametrize("names", [["spiece.model"], ["vocab.json", "merges.txt"], ["vocab.txt"]])
def test_older_tokenizers(folder: Path, names: list[str]) -> None:
    (folder / "tokenizer.json").unlink()
    for name in names:
        (folder / name).touch()
    read(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b'"t5"', "is not a JSON object"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_files_that_are_no_objects(folder: Path, name: str, content: bytes, reason: str) -> None:
    (folder / name).write_bytes(content)
    message = refusal(folder)
    assert str(folder / name) in message
    assert reason in message


def test_the_gate_is_light() -> None:
    """A command line asks it before anything heavy is imported."""
    script = (
        "import sys, open_llm_server.engine.torch_checkpoint\n"
        "assert not {'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
