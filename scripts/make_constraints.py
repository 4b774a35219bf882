"""Writes constraints.txt: one version of everything that a release is tested with.

uv resolves both distributions with all extras, and what the tests and checks need, for every
Python and platform at once. What constraints.txt says already is kept where it still fits;
`--upgrade` takes the newest there is. `make constraints` runs this.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "constraints.txt"
OLDEST_PYTHON = "3.10"
HELD = (
    "torch==2.13.0",  # the release that the engine on torch was held to, token for token
    "atheris<3.1 ; python_version < '3.12'",  # 3.1 has no wheels for older Pythons
)
"""Chosen by hand."""
GROUPS = ("test", "lint")
OWN = ("open-llm-server", "open-llm-client")
HEADER = """\
# What open-llm-server was tested with: every package of all extras, and those of its tests.
# pip install -c constraints.txt 'open-llm-server[all]'   (see docs/installing.md)
# Written by `make constraints`.
"""
LINE = re.compile(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [\w.<>=!'()* ]+)?")
"""A public version, and where it holds. No index, no path, no local build such as +cpu."""


def command(folder: Path) -> list[str]:
    """uv's command line; `folder` is for the files that it reads beside ours."""
    given = folder / "given.in"
    # The client lives here and need not be on any index.
    given.write_text(f"open-llm-client @ {(ROOT / 'client').as_uri()}\n")
    held = folder / "held.txt"
    held.write_text("\n".join(HELD))
    projects = [ROOT / "pyproject.toml", ROOT / "client" / "pyproject.toml"]
    groups = [f"--group={projects[0]}:{name}" for name in GROUPS]
    hidden = [f"--no-emit-package={name}" for name in OWN]
    return [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config"),
        *("--universal", "--python-version", OLDEST_PYTHON, "--all-extras", *groups),
        *("--constraints", str(held), "--no-annotate", "--no-header", *hidden),
        *("--output-file", str(folder / "pins.txt"), *map(str, projects), str(given)),
    ]


def resolve(known: str, *, upgrade: bool) -> str:
    """The lines, one a package and place. Raises CalledProcessError where there is no answer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pins = folder / "pins.txt"
        # uv keeps to what its output says before.
        pins.write_text(known)
        more = ["--upgrade"] if upgrade else []
        environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
        subprocess.run([*command(folder), *more], check=True, env=environment)
        return pins.read_text()


def refuse_odd(lines: str) -> None:
    """Leaves with an error where a line would not mean the same on another machine."""
    odd = [line for line in lines.splitlines() if not LINE.fullmatch(line)]
    if odd:
        sys.exit(f"error: this holds on one machine only: {odd[0]}; resolve without own indexes")


def main() -> None:
    known = TARGET.read_text() if TARGET.exists() else ""
    try:
        lines = resolve(known, upgrade="--upgrade" in sys.argv[1:])
    except subprocess.CalledProcessError as failed:
        sys.exit(failed.returncode)  # uv has said why
    refuse_odd(lines)
    TARGET.write_text(HEADER + lines)
    print(f"{TARGET.name}: {len(lines.splitlines())} lines")


if __name__ == "__main__":
    main()
