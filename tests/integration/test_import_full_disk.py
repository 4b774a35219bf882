"""Conversions and quantisations on a disk that turns out to be full."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import checkpoints
import ggufs
import pytest
import torch
from safetensors.torch import load_file
from storing import faults

from open_llm_server import import_model
from open_llm_server.errors import InsufficientSpace
from open_llm_server.store import places, quantise, space
from open_llm_server.store.catalog import entries

pytestmark = pytest.mark.weights

LARGE = 64 * 1024 * 1024


class Disk:
    """A file system in memory, of a size that can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={LARGE}", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )

    def resize(self, size: int) -> None:
        subprocess.run(
            ["mount", "-o", f"remount,size={size}", str(self.folder)],
            capture_output=True,
            check=True,
        )

    def close(self) -> None:
        subprocess.run(["umount", str(self.folder)], capture_output=True, check=True)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = Disk(folder)
    if disk.made.returncode:
        pytest.skip(f"no small disk can be mounted here: {disk.made.stderr.strip()}")
    monkeypatch.setenv("BENTOML_HOME", str(folder / "bentoml"))
    try:
        yield disk
    finally:
        disk.close()


def pickles(folder: Path) -> Path:
    checkpoints.make_gpt_neox(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


CASES: dict[str, tuple[str, Callable[[Path], Path], dict[str, object]]] = {
    "convert": ("pythia", pickles, {"convert_pickles": True}),
    "int8": ("pythia", checkpoints.make_gpt_neox, {"quantize": "int8"}),
    "q8_0": ("llama", lambda folder: ggufs.small(make(folder)), {"quantize": "q8_0"}),
}


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("case", CASES)
def test_a_full_disk_is_no_fault_of_the_model(
    case: str, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, maker, options = CASES[case]
    source = maker(tmp_path / "source")
    files = [source] if source.is_file() else [*source.iterdir()]
    size = sum(file.stat().st_size for file in files)
    monkeypatch.setattr(quantise, "LEAST_GAIN", 0.0)
    with monkeypatch.context() as patch:
        # as if somebody else took the room after it was asked for
        patch.setattr(space, "require", lambda folder, needed: None)
        disk.resize(size + size // 8)
        with pytest.raises(InsufficientSpace, match=r"make room") as caught:
            import_model(f"{family}@{source}", **options)  # type: ignore[arg-type]
    assert caught.value.extra["available"] is not None
    assert entries() == []
    assert faults() == []
    (staged,) = places.staging().iterdir()
    assert {file.name for file in staged.rglob("*")} == {file.name for file in files}
    if case == "int8":
        return  # it measures for long, and would go on as the others do
    disk.resize(LARGE)
    entry = import_model(f"{family}@{source}", **options)  # type: ignore[arg-type]
    assert entries() == [entry]
    assert faults() == []
    assert not [*places.staging().iterdir()]
