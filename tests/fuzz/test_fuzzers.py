"""The coverage-guided fuzzers for a moment; by hand they run as long as one likes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNS = 2000
LIMIT_S = 300


@pytest.mark.skipif(
    find_spec("atheris") is None, reason="there is no atheris for this Python or system"
)
@pytest.mark.parametrize("target", ["gguf", "safetensors", "settings"])
def test_nothing_is_found_in_a_moment(target: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.fuzz.{target}", "--runs", str(RUNS)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {RUNS} runs" in done.stderr
    assert not list(tmp_path.iterdir())
