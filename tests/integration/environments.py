"""The built distributions, and environments with nothing in them but what a test names.

Made without a network: wheels are installed by pip itself, and what they need is linked from the
environment of the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from running import HANG_S

ROOT = Path(__file__).resolve().parents[2]
SERVER = "open-llm-server"
OWN = (SERVER, "open-llm-client")


@dataclass(frozen=True)
class Environment:
    """A virtual environment, with a folder to work in that is outside of the checkout."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site(self) -> Path:
        (site,) = self.folder.glob("lib/python3*/site-packages")
        return site

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def variables(self) -> Mapping[str, str]:
        """Nobody's settings, and no network."""
        home = self.work / "home"
        return {
            "PATH": os.pathsep.join([str(self.folder / "bin"), "/usr/bin", "/bin"]),
            "HOME": str(home),
            "BENTOML_HOME": str(home / "bentoml"),
            "HF_HOME": str(home / "hf"),
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """A program of this environment."""
        return subprocess.run(
            [self.folder / "bin" / words[0], *words[1:]],
            cwd=self.work,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * HANG_S,
        )

    def pip(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """pip, from outside, on this environment."""
        return subprocess.run(
            [sys.executable, "-m", "pip", "--isolated", "--python", self.python, *words],
            cwd=self.work,
            env={**self.variables, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            timeout=2 * HANG_S,
        )

    def pretend(self, name: str, version: str) -> None:
        """Has a distribution say that it is of another release."""
        info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@cache
def built(base: Path) -> Path:
    """A folder with the sdists of server and client, and the wheels that were made from them.

    `base`: of all temporary folders of this session; what is built there is built once.
    """
    folder = base / "built"
    for project in (ROOT, ROOT / "client"):
        done = subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, project],
            capture_output=True,
            text=True,
            timeout=2 * HANG_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def of_wheel(base: Path) -> PathDistribution:
    """The server as its wheel describes it."""
    (wheel,) = built(base).glob("open_llm_server-*.whl")
    (info,) = (path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info"))
    return PathDistribution(info)


@cache
def installed(base: Path, extras: str = "") -> Environment:
    """With both wheels, and what the server needs for `extras`; the same one for everybody."""
    return make(base, base / f"with-{extras or 'nothing'}", extras)


def make(base: Path, folder: Path, extras: str) -> Environment:
    """As `installed`, in `folder`, for a test that changes it."""
    made = Environment(folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made.folder], check=True)
    (made.work / "home").mkdir(parents=True)
    others = made.folder / "others"
    others.mkdir()
    for name in _needed(_wanted(of_wheel(base), extras)) - {*OWN}:
        _link(name, others)
    (made.site / "others.pth").write_text(f"{others}\n")
    wheels = built(base).glob("*.whl")
    done = made.pip("install", "--quiet", "--no-index", "--no-deps", "--no-compile", *wheels)
    assert done.returncode == 0, done.stderr
    return made


def _wanted(of: Distribution, extras: str) -> list[Requirement]:
    """What a distribution asks for here, with some extras, joined by commas."""
    lines = of.requires or ()
    return [one for extra in {"", *extras.split(",")} for one in chosen(lines, extra)]


def _needed(by: Iterable[Requirement]) -> set[str]:
    """The distributions that `by` name, and all that are below them here."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [*by]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        found.add(name)
        if name not in OWN and str(wanted) not in seen:
            seen.add(str(wanted))
            waiting += _wanted(distribution(name), ",".join(wanted.extras))
    return found


def chosen(lines: Iterable[str], extra: str) -> Iterator[Requirement]:
    """Of a distribution's requirements, those of `extra` that hold here; "": those of itself."""
    for one in map(Requirement, lines):
        plain, holds = (
            one.marker is None or one.marker.evaluate({"extra": name}) for name in ("", extra)
        )
        if holds and plain == (not extra):
            yield one


def _link(name: str, folder: Path) -> None:
    found = distribution(name)
    for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
        if not (folder / top).exists():
            (folder / top).symlink_to(str(found.locate_file(top)))
