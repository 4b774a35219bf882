"""The distributions: what is in them, and that the server lives from its wheel alone."""

from __future__ import annotations

import re
import tarfile
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import environments
import pytest
from environments import ROOT, SERVER, Environment
from shells import Person

from open_llm_server import __version__
from open_llm_server.extras import GRPC, LLAMA_CPP, TORCH

PACKAGE = "open_llm_server"
LOCAL = re.compile(
    r"__pycache__|\.py[co]$|(^|/)(tests|benchmarks|scripts|\.ci|\.bench|\.venv)(/|$)"
)
ASK = """
import sys, open_llm_server
from pathlib import Path
from open_llm_server.config.cards import cards
assert Path(open_llm_server.__file__).is_relative_to(sys.prefix), open_llm_server.__file__
for name in open_llm_server.__all__:
    assert getattr(open_llm_server, name), name
print(len(cards()))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environments.built(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> PathDistribution:
    return environments.of_wheel(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return environments.installed(tmp_path_factory.getbasetemp())


def in_wheel(built: Path, package: str = PACKAGE) -> set[str]:
    (wheel,) = built.glob(f"{package}-*.whl")
    with zipfile.ZipFile(wheel) as files:
        assert files.testzip() is None
        return {*files.namelist()}


def in_sdist(built: Path, package: str) -> set[str]:
    """Without the folder that all of it is in."""
    (sdist,) = built.glob(f"{package}-*.tar.gz")
    with tarfile.open(sdist) as files:
        assert all(member.isfile() for member in files), "no links, nothing special"
        parts = [Path(name).parts for name in files.getnames()]
    assert {top for top, *_ in parts} == {sdist.name.removesuffix(".tar.gz")}
    return {"/".join(rest) for _, *rest in parts}


def sources(folder: Path) -> set[str]:
    """What lies under `folder` of the checkout, named from where `folder` is."""
    found = {path.relative_to(folder.parent).as_posix() for path in folder.rglob("*")}
    return {name for name in found if (folder.parent / name).is_file() and not LOCAL.search(name)}


def test_the_wheel_holds_the_package_and_what_it_serves(built: Path) -> None:
    models = {
        f"{PACKAGE}/{name}"
        for name in sources(ROOT / "models")
        if not re.search(r"\.py$|^models/tiny/text/", name)
    }
    info = f"{PACKAGE}-{__version__}.dist-info"
    names = in_wheel(built)
    own = {name for name in names if not name.startswith(info)}
    assert own == sources(ROOT / PACKAGE) | models
    assert {name.removeprefix(f"{info}/") for name in names - own} == {
        *("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }
    for name in (
        "py.typed",
        "models/llama.yaml",
        "models/tiny/tiny-q8_0.gguf",
        "models/tiny/hf/model.safetensors",
        "rpc/proto/open_llm/v1/open_llm.proto",
    ):
        assert f"{PACKAGE}/{name}" in names


def test_the_sdist_holds_what_the_wheel_is_made_of(built: Path) -> None:
    wanted = sources(ROOT / PACKAGE) | sources(ROOT / "models")
    beside = {"LICENSE", "README.md", "CHANGELOG.md", "constraints.txt", "pyproject.toml"}
    assert in_sdist(built, PACKAGE) == wanted | beside | {"PKG-INFO", ".gitignore"}


def test_the_clients_distributions(built: Path) -> None:
    client = sources(ROOT / "client" / "open_llm_client")
    beside = {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert in_sdist(built, "open_llm_client") == client | beside
    names = in_wheel(built, "open_llm_client")
    assert {name for name in names if ".dist-info/" not in name} == client


def test_the_metadata(wheel: PathDistribution) -> None:
    said = wheel.metadata
    assert (said["Name"], said["Version"]) == (SERVER, __version__)
    assert said["License-Expression"] == "Apache-2.0"
    assert said["Requires-Python"] == ">=3.10"
    assert said["Description-Content-Type"] == "text/markdown"
    assert said["Description"] == (ROOT / "README.md").read_text()


def test_the_extras_bring_what_is_asked_for(wheel: PathDistribution) -> None:
    said = wheel.metadata
    lines = wheel.requires or []
    held = {
        extra: {one.name for one in environments.chosen(lines, extra)}
        for extra in said.get_all("Provides-Extra", [])
    }
    for extra in (LLAMA_CPP, TORCH, GRPC):
        assert held.pop(extra.name) == {*extra.packages.values()}
    everything = {name for extra in (LLAMA_CPP, TORCH, GRPC) for name in extra.packages.values()}
    assert held == {"all": everything}
    core = {one.name for one in environments.chosen(lines, "")}
    assert not core & everything, "without an extra, nothing is compiled and nothing is large"


def test_what_it_needs_is_what_it_says(bare: Environment) -> None:
    done = bare.pip("check")
    assert done.returncode == 0, done.stdout
    assert not (bare.folder / "others" / "llama_cpp").exists()


def test_the_commands_work_outside_of_the_checkout(bare: Environment) -> None:
    said = {}
    for words in ("--version", "--help", "models", "config tiny", "config fake --json"):
        done = bare.run(SERVER, *words.split())
        assert (done.returncode, done.stderr) == (0, ""), words
        said[words] = done.stdout
    assert said["--version"] == f"{SERVER} {__version__}\n"
    assert "flan-t5" in said["models"] and "port" in said["config tiny"]
    done = bare.run("python", "-c", ASK)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len([*(ROOT / "models").glob("*.yaml")])


@pytest.mark.server
def test_a_server_without_an_engine_answers(bare: Environment) -> None:
    """`test_installing_page` starts `tiny`, with llama.cpp beside it."""
    Person(bare.work, bare.variables).starts(f"{SERVER} start fake")


def test_the_exact_version_is_the_one_that_is_built(wheel: PathDistribution) -> None:
    (pinned,) = environments.chosen(wheel.requires or [], LLAMA_CPP.name)
    script = (ROOT / "scripts" / "setup_llama_cpp.py").read_text()
    assert f'VERSION = "{str(pinned.specifier).removeprefix("==")}"' in script
