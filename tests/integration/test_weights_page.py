"""Everything that the page on weights shows is done here, in its order, as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import checkpoints
import ggufs
import pytest
import torch
from fake_hub import FakeHub
from running import HANG_S
from safetensors.torch import load_file
from shells import Person

from open_llm_server.engine.torch_checkpoint import WEIGHTS

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(
    r"^```(\w+)\n(.*?)^```",
    (ROOT / "docs" / "weights.md").read_text(),
    re.MULTILINE | re.DOTALL,
)
LINES = [
    line.split("  #")[0].strip()
    for language, text in BLOCKS
    if language == "bash"
    for line in text.splitlines()
]
TINY = ROOT / "models" / "tiny" / "tiny-q8_0.gguf"
LLAMA = "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF"
SAID = {
    "import": "start it: open-llm-server start ",
    "models list": "TAG",
    "models show": "files, with sha256:",
    "models verify": "unchanged",
    "models rm": "removed small:",
    "models prune": "nothing to remove",
}
"""What each kind of command says when it did what the page says."""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as running:
        yield running


@pytest.fixture
def person(tmp_path: Path, hub: FakeHub) -> Person:
    """With the files of the page's commands, and what they import from a hub."""
    hub.add("google/flan-t5-base", _files(checkpoints.make_t5(tmp_path / "made" / "t5")))
    neox = checkpoints.make_gpt_neox(tmp_path / "made" / "neox")
    hub.add("EleutherAI/pythia-70m", _files(neox), branch="step3000")
    names = [f"Meta-Llama-3.1-8B-Instruct-{kind}.gguf" for kind in ("Q4_K_M", "Q8_0")]
    hub.add(LLAMA, dict.fromkeys(names, TINY.read_bytes()))
    ggufs.small(tmp_path).rename(tmp_path / "model-f16.gguf")
    torch.save(load_file(neox / WEIGHTS), neox / "pytorch_model.bin")
    (neox / WEIGHTS).unlink()
    neox.rename(tmp_path / "pythia-old")
    return Person(tmp_path, {**hub.environment(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"})


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.server
def test_the_commands(person: Person, hub: FakeHub) -> None:
    assert len(LINES) >= 13
    for line in LINES:
        words = line.removeprefix("open-llm-server ")
        assert words != line
        if words.startswith("start "):
            asked = len(hub.requests)
            person.starts(line)
            assert len(hub.requests) == asked, "what is there needs no network"
            continue
        kind = next(kind for kind in SAID if words.startswith(kind))
        assert SAID[kind] in person.do(words)[0], line


def test_the_python_snippet(person: Person) -> None:
    (code,) = [text for language, text in BLOCKS if language == "python"]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=person.environment,
        cwd=person.folder,
        capture_output=True,
        text=True,
        timeout=2 * HANG_S,
    )
    assert done.returncode == 0, done.stderr
    assert "Progress(phase='downloading'" in done.stdout
    assert str(person.home / "models" / "google--flan-t5-base") in done.stdout.splitlines()[-1]
