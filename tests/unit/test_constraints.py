"""constraints.txt says what is tested here, and nothing of the machine that it was made on."""

from __future__ import annotations

import re
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import programs
import pytest
import tomlkit
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "constraints.txt").read_text()
LINES = [line for line in TEXT.splitlines() if not line.startswith("#")]
PINS = [Requirement(line) for line in LINES]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OWN = {"open-llm-server", "open-llm-client"}


script = programs.script("make_constraints")


def pinned(**elsewhere: str) -> dict[str, str]:
    """The version of each package here, or where the variables of markers have other values."""
    found: dict[str, str] = {}
    for pin in PINS:
        if pin.marker and not pin.marker.evaluate(elsewhere):
            continue
        assert pin.name not in found, f"two versions of {pin.name}"
        found[pin.name] = str(pin.specifier).removeprefix("==")
    return found


def wanted() -> list[Requirement]:
    """What both projects name, in all extras and groups."""
    lines: list[str] = []
    for path in (ROOT / "pyproject.toml", ROOT / "client" / "pyproject.toml"):
        said: Any = tomlkit.parse(path.read_text()).unwrap()
        project, groups = said["project"], said.get("dependency-groups", {})
        lines += project["dependencies"]
        for more in (*project["optional-dependencies"].values(), *groups.values()):
            lines += more
    return [one for one in map(Requirement, lines) if one.name not in OWN]


def test_every_line_means_the_same_on_any_machine() -> None:
    script.refuse_odd("\n".join(LINES))
    assert TEXT.startswith(script.HEADER)
    names = [pin.name for pin in PINS]
    assert names == sorted(names)
    assert not {*names} & OWN


@pytest.mark.parametrize(
    "line",
    [
        "torch==2.13.0+cpu",
        "--index-url https://example.org/simple",
        "-e ./client",
        "torch @ file:///wheels/torch.whl",
        "torch>=2.13",
        "torch==2.13.0 --hash=sha256:00",
        "# via torch",
    ],
)
def test_odd_lines_are_refused(line: str) -> None:
    with pytest.raises(SystemExit, match="one machine only"):
        script.refuse_odd(f"numpy==2.4.6\n{line}\n")


@pytest.mark.parametrize("python", PYTHONS)
def test_there_is_a_version_of_everything_for_every_python(python: str) -> None:
    pins = pinned(python_version=python, python_full_version=f"{python}.9")
    for one in wanted():
        if one.marker and not one.marker.evaluate({"python_version": python}):
            continue
        assert Version(pins[canonicalize_name(one.name)]) in one.specifier, one


def test_what_is_tested_here_is_what_it_says() -> None:
    pins = pinned()
    others = {
        name: f"{found.version} instead of {pins[name]}"
        for found in distributions()
        if (name := canonicalize_name(found.name)) in pins
        and Version(found.version) not in SpecifierSet(f"=={pins[name]}")
    }
    assert not others, "run make setup, or make constraints"


def test_it_is_made_with_the_torch_that_is_tested() -> None:
    (torch,) = (Requirement(one) for one in script.HELD if one.startswith("torch"))
    assert str(torch.specifier) == f"=={pinned()['torch']}"


def test_the_makefile_installs_no_other_versions() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "INSTALL := $(PIP) install --quiet --constraint constraints.txt\n" in makefile
    free = re.findall(r"\$\(PIP\) install (?!--quiet --constraint)(.*)", makefile)
    assert free == ["--quiet --upgrade 'pip>=25.1'", "--quiet uv"]
