"""`import_model` of files and folders of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import ggufs
import pytest
import torch
from safetensors.torch import load_file
from storing import files_of, leftovers

from open_llm_server import import_model
from open_llm_server.config.merge import resolve_model
from open_llm_server.errors import WeightsError
from open_llm_server.store import places, space
from open_llm_server.store.catalog import entries, get

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ggufs.small(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make_gpt_neox(tmp_path_factory.mktemp("checkpoint") / "pythia")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bentoml"
    monkeypatch.setenv("BENTOML_HOME", str(folder))
    return folder


def test_a_file_and_a_folder(weights: Path, checkpoint: Path) -> None:
    one = import_model(f"mine=llama@{weights}")
    two = import_model(f"pythia@{checkpoint}")
    assert one.tag.name == "mine"
    assert one.path.read_bytes() == weights.read_bytes()
    assert files_of(checkpoint).items() <= files_of(two.folder).items()
    assert get("mine") == one
    assert resolve_model("llama@store:mine").stored == str(one.path)
    assert import_model(f"mine=llama@{weights}").tag == one.tag
    assert len(entries()) == 2
    with pytest.raises(WeightsError, match=r"imported for family llama.*llama@store:mine"):
        resolve_model("pythia@store:mine")


def test_no_copy_where_a_link_does(weights: Path) -> None:
    weights.chmod(0o644)
    entry = import_model(f"llama@{weights}")
    blocks = entry.path.stat()
    assert (blocks.st_ino, blocks.st_dev) == (weights.stat().st_ino, weights.stat().st_dev)


def test_a_source_that_is_written_to_later(tmp_path: Path, weights: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(weights.read_bytes())
    mine.chmod(0o644)
    entry = import_model(f"llama@{mine}")
    with mine.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    with pytest.raises(WeightsError, match=rf"written to since.*models rm {entry.tag}"):
        resolve_model(f"llama@store:{entry.tag}")


def test_pickled_weights_are_converted_when_told_to(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    for name, content in files_of(checkpoint).items():
        (folder / name).write_bytes(content)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="--convert-pickles"):
        import_model(f"pythia@{folder}")
    entry = import_model(f"pythia@{folder}", convert_pickles=True)
    assert entry.manifest.converted
    assert not [*entry.folder.glob("*.bin")]
    assert (
        load_file(entry.folder / "model.safetensors").keys()
        == load_file(checkpoint / "model.safetensors").keys()
    )


def test_refusals_name_the_file_that_was_brought(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(WeightsError) as caught:
        import_model(f"llama@{file}")
    assert caught.value.message.startswith(f"{file} is damaged")


def test_a_file_that_is_called_otherwise(tmp_path: Path, weights: Path) -> None:
    blob = tmp_path / "sha256-0f"
    blob.write_bytes(weights.read_bytes())
    entry = import_model(f"llama@{blob}")
    assert entry.path.read_bytes() == weights.read_bytes()
    assert resolve_model(f"llama@store:{entry.tag}").stored == str(entry.path)
    blob.write_bytes(b"PK" + bytes(100))
    with pytest.raises(WeightsError, match="sha256-0f"):
        import_model(f"llama@{blob}")


def test_a_link_that_leads_nowhere(weights: Path, tmp_path: Path) -> None:
    link = tmp_path / "folder" / "m.gguf"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "none.gguf")
    with pytest.raises(WeightsError, match=r"m\.gguf cannot be read: No such file"):
        import_model(f"llama@{link.parent}")


def test_a_folder_brings_no_other_files(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "m.gguf").symlink_to(weights)
    for source in (f"{folder}", f"{folder}#m.gguf"):
        with pytest.raises(
            WeightsError, match=r"m\.gguf leads out of its folder, to .*put the file"
        ):
            import_model(f"llama@{source}")
    entry = import_model(f"llama@{folder / 'm.gguf'}")  # a person says that it is this one
    assert entry.path.read_bytes() == weights.read_bytes()


@pytest.mark.parametrize("scheme", ["q8_0", "q4_k_m"])
def test_quantising_needs_room_for_the_result_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    source = ggufs.small(tmp_path)
    source.chmod(0o644)  # linked, and so without a copy
    size, asked = source.stat().st_size, list[int]()
    monkeypatch.setattr(space, "require", lambda _, needed: asked.append(needed))
    entry = import_model(f"a=llama@{source}", quantize=scheme)
    assert entry.manifest.bytes <= asked[0] < 0.6 * size


@pytest.mark.parametrize("table", [{"a": ["b"]}, {"a": None}, ["a"]])
def test_an_index_that_is_none(checkpoint: Path, tmp_path: Path, table: object) -> None:
    folder, part = tmp_path / "parts", "model-00001-of-00001.safetensors"
    folder.mkdir()
    for name, content in files_of(checkpoint).items():
        (folder / name.replace("model.safetensors", part)).write_bytes(content)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    with pytest.raises(WeightsError, match=r"index\.json does not say which"):
        import_model(f"pythia@{folder}")
    assert entries() == [] == leftovers()
    assert not [*places.staging().iterdir()]
