"""The client's distribution: what is in it, and that it lives without the server's packages."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from running import HANG_S, Running

CLIENT = Path(__file__).resolve().parents[2] / "client"
ASK = """
import sys
sys.path += sys.argv[2:]
import open_llm_client
with open_llm_client.create(sys.argv[1]) as client:
    print(client.chat("How are you?", temperature=0))
    print(len(client.embed("Hello")[0]))
for name in ("torch", "bentoml", "open_llm_server", "numpy", "pydantic", "grpc"):
    assert name not in sys.modules, name
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(f"{name} is in this environment")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, CLIENT],
        check=True,
        capture_output=True,
        timeout=2 * HANG_S,
    )
    return folder


def needed(name: str) -> Iterator[str]:
    """`name` and the distributions below it, without extras."""
    yield name
    for line in distribution(name).requires or ():
        requirement = re.match(r"[A-Za-z0-9._-]+", line)
        if requirement and "extra" not in line and "python_" not in line:
            yield from needed(requirement[0])


def test_the_wheel_asks_for_httpx_alone(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        said = Parser().parsestr(files.read(metadata).decode())
    plain = [line for line in said.get_all("Requires-Dist", ()) if "extra" not in line]
    assert [re.split(r"[ <>=!~]", line)[0] for line in plain] == ["httpx"]
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {
        "open_llm_client"
    }
    assert "open_llm_client/py.typed" in names
    assert any(name.endswith("LICENSE") for name in names)
    assert list(built.glob("*.tar.gz"))


@pytest.mark.server
def test_it_works_in_an_empty_environment(
    built: Path, tmp_path: Path, shared_server: Running
) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path / "own")
    others = tmp_path / "others"
    others.mkdir()
    for name in {*needed("httpx")}:
        for file in distribution(name).files or ():
            top = file.parts[0]
            if not top.startswith((".", "_")) and not (others / top).exists():
                (others / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ASK, shared_server.url, tmp_path / "own", others],
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
