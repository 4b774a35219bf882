"""The container engines of this machine: there, which version, whether an engine answers, and
whether they can be given GPUs. Notes only: no `start` needs one.

`judge` and `judge_gpus` are pure.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .config.machine import count_gpus
from .doctor_finding import Case, Finding, joined

ENGINES = ("docker", "podman", "nerdctl")
LIMIT_S = 10.0
_CDI = (Path("/etc/cdi"), Path("/var/run/cdi"))
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+)?")
_GENERATE = "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"


@dataclass(frozen=True)
class Engine:
    """What a command says of itself."""

    name: str
    version: str = ""
    fault: str | None = None
    """Why no engine answers behind the command; `None`: one does."""


def check(_: Case) -> list[Finding]:
    found = judge([_ask(name) for name in ENGINES if shutil.which(name)])
    toolkit = shutil.which("nvidia-ctk") is not None
    return [*found, *judge_gpus(count_gpus(), _specifications(), toolkit=toolkit)]


def judge(engines: Sequence[Engine]) -> list[Finding]:
    """`engines`: those whose command is there."""
    if not engines:
        says = f"none of {joined([*ENGINES])} is here: `run-container` needs one, `start` does not"
        return [Finding("note", "engine", says)]
    found = []
    for engine in engines:
        shown = f"{engine.name} {engine.version}".rstrip()
        if engine.fault is None:
            found.append(Finding("ok", engine.name, f"{shown} answers"))
            continue
        says = f"{shown} is there, but no engine answers: {engine.fault}"
        found.append(Finding("note", engine.name, says, _START[engine.name]))
    return found


_START = {
    "docker": "start it (sudo systemctl start docker), and be in its group to use it",
    "podman": "look at what `podman info` says",
    "nerdctl": "start containerd (sudo systemctl start containerd)",
}


def judge_gpus(gpus: int, specifications: Sequence[str], *, toolkit: bool) -> list[Finding]:
    """`gpus`: of the driver; `specifications`: files of the Container Device Interface;
    `toolkit`: whether NVIDIA's container toolkit is installed."""
    if not gpus:
        return []
    if specifications:
        says = f"can be given to containers by {joined([*specifications])}"
        return [Finding("ok", "GPU", says)]
    says = "containers cannot be given GPUs by name: no file of /etc/cdi or /var/run/cdi has them"
    do = _GENERATE if toolkit else f"install NVIDIA's container toolkit, then: {_GENERATE}"
    return [Finding("note", "GPU", says, do)]


def _specifications() -> list[str]:
    return sorted(
        str(path)
        for folder in _CDI
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix in (".yaml", ".yml", ".json")
    )


def _ask(name: str) -> Engine:
    """Its command is asked for its version, and then its engine is."""
    said = _run(name, "--version")
    version = _VERSION.search(said[1])
    code, _, words = _run(name, "version")
    lines = words.strip().splitlines()
    fault = None if code == 0 else (lines[-1] if lines else f"exit code {code}")
    return Engine(name, version.group() if version else "", fault)


def _run(*command: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return 1, "", f"no answer within {LIMIT_S:g} s"
    except OSError as error:
        return 1, "", error.strerror or str(error)
    return done.returncode, done.stdout, done.stderr
