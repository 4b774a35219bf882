"""What the client's pages show is run here, as it stands, against a server with both doors."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import HANG_S

import open_llm_server
from open_llm_server.serving import Server

ROOT = Path(__file__).parents[2]
PAGES = {page: (ROOT / page).read_text() for page in ("client/README.md", "docs/client.md")}
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(code, id=f"{page}-{place}")
    for page, text in PAGES.items()
    for place, code in enumerate(BLOCK.findall(text))
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with open_llm_server.start("tiny", port=0, grpc_port=0, wait_s=HANG_S) as started:
        yield started


@pytest.mark.server
@pytest.mark.parametrize("code", BLOCKS)
def test_the_blocks(server: Server, code: str) -> None:
    assert server.grpc_url
    here = code.replace("http://localhost:5000", server.url)
    here = here.replace("grpc://localhost:5001", server.grpc_url)
    assert here != code
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", here],
        capture_output=True,
        text=True,
        timeout=2 * HANG_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and not done.stderr.strip()


def test_what_to_install() -> None:
    """The errors and the pages name the extra that there is."""
    project = (ROOT / "client" / "pyproject.toml").read_text()
    assert re.search(r"^grpc = \[", project, re.MULTILINE)
    for text in [*PAGES.values(), (ROOT / "client" / "open_llm_client" / "_grpc.py").read_text()]:
        assert "pip install 'open-llm-client[grpc]'" in text


def test_every_keyword_is_on_the_page() -> None:
    from open_llm_client._requests import SAMPLING

    assert all(f"`{name}`" in PAGES["docs/client.md"] for name in SAMPLING)


def test_grpc_without_its_packages() -> None:
    code = (
        "import sys; sys.modules['grpc'] = None\n"
        "import open_llm_client\n"
        "client = open_llm_client.create('grpc://127.0.0.1:1')\n"
        "try:\n"
        "    client.chat('Hello')\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'open-llm-client[grpc]'" in done.stdout
