"""docs/bento.md: its commands, run as written but for the ports."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import httpx
import pytest
from bentos import chat, served, shell
from running import HANG_S
from shells import Person

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "bento.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
LINES = [line for text in BLOCKS for line in text.splitlines()]
TINY = ROOT / "models" / "tiny" / "tiny-q8_0.gguf"
pytestmark = pytest.mark.server


def test_the_commands(tmp_path: Path) -> None:
    """From the export on, nothing is left of the machine that it was made on."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    shutil.copyfile(TINY, here / "small.gguf")
    person = Person(here, {})
    seen = []
    for line in LINES:
        seen.append(line.split()[1])
        if line.startswith("bentoml serve "):
            with served(line, person.folder, person.environment) as url:
                assert chat(url)
                models = httpx.get(f"{url}/v1/models", timeout=HANG_S).json()["data"]
                assert {model["status"] for model in models} == {"ready"}
            continue
        folder = ROOT if line.startswith("bentoml build") else person.folder
        said = shell(line, folder, person.environment)
        if line.startswith("open-llm-server build"):
            assert "serve it:" in said
        if line.startswith("bentoml export"):
            shutil.move(here / "shop.tar", there)
            shutil.rmtree(here)
            person = Person(there, {})
    assert seen == ["build", "serve", "build", "export", "import", "serve", "build", "serve"]
