"""bentofile.yaml, by which `bentoml build` makes a Bento of a checkout, agrees with the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "bentofile.yaml").read_text())


def test_it_asks_for_what_the_package_asks_for() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML by itself")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["llama-cpp"]]
    assert FILE["python"]["packages"] == [
        line for line in wanted if not line.startswith("open-llm-client")
    ]


def test_it_asks_no_index_when_it_builds() -> None:
    assert FILE["python"]["lock_packages"] is False


@pytest.mark.parametrize("pattern", FILE["include"])
def test_what_it_includes_is_there(pattern: str) -> None:
    assert [*ROOT.glob(re.sub(r"\*\*$", "**/*", pattern.removeprefix("/")))]


@pytest.mark.server
def test_what_keeps_its_service_from_serving_is_said_in_a_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", "open_llm_server.service:svc", "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "OPEN_LLM_MODELS": "nope", "BENTOML_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "there is no model or family 'nope'" in said
    assert "Traceback" not in said
