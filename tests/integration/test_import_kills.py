"""Whole imports that are killed at random moments, from a hub and from this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoints
import ggufs
import pytest
import torch
from fake_hub import FakeHub, Fault
from safetensors.torch import load_file

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(sys.platform != "linux", reason="orphans are found as Linux adopts them"),
]

TRIALS = Path(__file__).resolve().parents[1] / "import_trials.py"
HANG_S = 600


def run(
    name: str,
    count: int,
    folder: Path,
    *,
    environment: dict[str, str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What was found after `count` kills."""
    done = subprocess.run(
        [sys.executable, str(TRIALS), name, json.dumps(options), str(count)],
        env={**os.environ, **(environment or {}), "BENTOML_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["landed"] == count
    assert found["faults"] == found["staged"] == []
    assert found["orphans"] == 0
    assert len(found["tags"]) == 1
    return found


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_kills_of_imports_from_a_hub(tmp_path: Path) -> None:
    weights = ggufs.small(tmp_path).read_bytes()
    with FakeHub() as hub:
        hub.add("some/tiny", {"small.gguf": weights}, licence="mit")
        hub.fault("some/tiny", "small.gguf", Fault("drip", times=None, rate=2_000_000))
        found = run("llama@some/tiny", 30, tmp_path, environment=hub.environment(tmp_path / "hf"))
    assert "downloading" in found["phases"]


def test_kills_of_quantisations(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    weights = ggufs.small(source)
    before = contents(source)
    found = run(f"llama@{weights}", 16, tmp_path, quantize="q8_0")
    assert len(found["phases"]) > 1
    assert contents(source) == before


def test_kills_of_conversions(tmp_path: Path) -> None:
    source = checkpoints.make_gpt_neox(tmp_path / "source")
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    before = contents(source)
    found = run(f"pythia@{source}", 14, tmp_path, convert_pickles=True)
    assert found["phases"]
    assert contents(source) == before
