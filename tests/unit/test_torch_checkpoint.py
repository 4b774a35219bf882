"""What the light gate says of a checkpoint's folder, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_llm_server.engine.torch_checkpoint import (
    Checkpoint,
    check_safetensors,
    model_bytes,
    read_checkpoint,
)
from open_llm_server.errors import WeightsError

CONFIG = {"model_type": "t5", "vocab_size": 4}


def tensors(path: Path, values: int = 2) -> Path:
    header = {
        "__metadata__": {"format": "pt"},
        "weight": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4 * values))
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


def shard(folder: Path, *names: str) -> None:
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
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    shard(folder, names[1], names[0], names[1])
    for values, name in enumerate(names, start=1):
        tensors(folder / name, values)
    tensors(folder / "other.safetensors")
    checkpoint = read(folder)
    assert [path.name for path in checkpoint.weights] == names
    assert model_bytes(checkpoint) == sum((folder / name).stat().st_size for name in names)


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard(folder, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    tensors(folder / "model-00001-of-00002.safetensors")
    message = refusal(folder)
    assert "1 of the 2 files" in message
    assert "model-00002-of-00002.safetensors" in message


@pytest.mark.parametrize("name", ["../model.safetensors", "/model.safetensors", "model.bin", 3])
def test_shards_lie_in_the_folder(folder: Path, name: object) -> None:
    shard(folder, name)  # type: ignore[arg-type]  # what a broken file may hold
    assert "does not say which" in refusal(folder)


@pytest.mark.parametrize("table", [None, {}, []])
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


def test_quantised_weights(folder: Path) -> None:
    put(folder, config={**CONFIG, "quantization_config": {"quant_method": "gptq"}})
    assert "quantised" in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused_with_a_way_out(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).touch()
    message = refusal(folder)
    assert name in message
    assert "convert them to model.safetensors" in message


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


@pytest.mark.parametrize(
    "header", [b"", b"[]", b"{}", b'{"a": 1}', b'{"a": {"data_offsets": "xy"}}', b"[" * 20_000]
)
def test_headers_that_are_none(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match="no safetensors file"):
        check_safetensors(path)


@given(content=st.binary(max_size=64))
def test_any_bytes_are_checked(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        check_safetensors(path)


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
