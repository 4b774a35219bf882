"""Which container engine is here, whether it answers, and whether it has an image.

Asks the engines' own programs; knows nothing of what is to be run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import NoReturn

from .container import ENGINES, EngineName
from .errors import ConfigurationError, StartError

ANSWER_S = 20.0
"""An engine that says nothing for so long does not answer."""


@dataclass(frozen=True)
class Engine:
    """`name` says how it wants to be told things, `executable` is what is run."""

    name: EngineName
    executable: str
    rootless: bool = False
    """Whether containers have no more rights on this machine than the caller."""
    passed_over: str = ""
    """Which others are installed and were not taken, and why, as a clause."""


def find(wanted: str | None) -> Engine:
    """The engine `wanted`, a name or a path; else the first that answers. Raises StartError."""
    if wanted is not None:
        engine = unasked(wanted)
        if shutil.which(engine.executable) is None:
            raise StartError(
                f"--container-engine: {wanted} is not installed here; install it, or leave the "
                "option out to take what there is"
            )
        found = _ask(engine.name, engine.executable)
        if isinstance(found, Engine):
            return found
        raise StartError(
            f"{wanted} is installed but its engine does not answer ({found}): start it, or leave "
            "--container-engine out to take another"
        )
    silent: dict[str, str] = {}
    for name in ENGINES:
        if shutil.which(name) is None:
            continue
        found = _ask(name, name)
        if isinstance(found, Engine):
            clause = " and ".join(f"{other} is installed but does not answer" for other in silent)
            return Engine(found.name, found.executable, found.rootless, clause)
        silent[name] = found
    raise StartError(_none(silent))


def unasked(wanted: str) -> Engine:
    """The engine `wanted` as its name and this user tell, without running anything."""
    name = next((name for name in ENGINES if name == PurePath(wanted).name), None)
    if name is None:
        raise ConfigurationError(
            f"--container-engine {wanted!r}: want {', '.join(ENGINES)}, or the path of a program "
            "of one of these names"
        )
    return Engine(name, wanted, name != "docker" and os.getuid() != 0)


def has_image(engine: Engine, image: str) -> bool:
    """Whether `image` is on this machine."""
    return _run(engine.executable, "image", "inspect", image).returncode == 0


def replace_process(words: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Becomes the engine's program, so that signals and the exit code are its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(words[0], words, dict(environ))
    except OSError as error:
        raise StartError(f"cannot run {words[0]}: {error.strerror or error}") from error


def _ask(name: EngineName, executable: str) -> Engine | str:
    """The engine, or what its program says about why it does not answer."""
    answer = _run(executable, "version")
    if answer.returncode:
        lines = [line for line in answer.stderr.splitlines() if line.strip()]
        return lines[-1].strip()[:200] if lines else f"exit code {answer.returncode}"
    if "Podman Engine" in answer.stdout:  # also where `docker` is podman under another name
        name = "podman"
    return Engine(name, executable, _is_rootless(name, executable))


def _is_rootless(name: EngineName, executable: str) -> bool:
    if os.getuid() == 0:
        return False
    if name != "docker":
        return True
    return "rootless" in _run(executable, "info", "--format", "{{.SecurityOptions}}").stdout


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_S,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", f"no answer within {ANSWER_S:.0f} s")
    except OSError as error:
        return subprocess.CompletedProcess(words, 1, "", error.strerror or str(error))


def _none(silent: Mapping[str, str]) -> str:
    if not silent:
        return (
            "no container engine is installed here: install docker, podman or nerdctl, or run "
            "`open-llm-server start` without a container"
        )
    told = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in silent.items())
    return f"no container engine answers ({told}): start one, or install podman, which needs none"
