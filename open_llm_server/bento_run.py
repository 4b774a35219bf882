"""Runs BentoML's build of a folder in a process of its own, and says in words why it failed.

Owns that process, the folder that it works in, and what a full disk is called. Knows nothing of
what is built.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from .config.child_environment import bare_environment
from .config.folder import bentoml_home
from .errors import ConfigurationError, InsufficientSpace, StartError
from .store import space

_COPIES = 2  # of what is laid out: the one that BentoML works on, and the one in its store
_BLOCK = 4096  # bytes that the disk gives to a file at a time, as a rule
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LEAVE_S = 10.0
"""How long BentoML may take to clean up after a signal."""


def run_bentoml(stage: Path, name: str, version: str | None) -> str:
    """The tag of the Bento that BentoML makes of `stage`; it loads the service, and no model.

    Raises ConfigurationError where somebody else has just taken the tag, InsufficientSpace, or
    StartError with what BentoML said. However it ends, nothing stays in BentoML's working folder.
    """
    home = bentoml_home()
    sizes = [path.stat().st_size for path in stage.rglob("*") if path.is_file()]
    needed = _COPIES * sum(-(-size // _BLOCK) * _BLOCK for size in sizes)
    try:
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(
            prefix="open-llm-bento-", dir=home / "tmp", ignore_cleanup_errors=True
        )
    except OSError as error:
        if error.errno in _FULL:
            raise _too_full(needed) from error
        raise StartError(
            f"BENTOML_HOME ({home}) cannot be written: {error.strerror or error}; make it "
            "writable, or set BENTOML_HOME to a folder that is"
        ) from error
    with scratch as folder:
        done = _run(stage, [folder, *([version] if version else [])])
    if done.returncode == 0:
        return done.stdout.split()[-1]
    said = done.stderr.strip().splitlines() or ["it said nothing"]
    if any(f"[Errno {number}]" in said[-1] for number in _FULL):
        raise _too_full(needed)
    if version:
        check_free(name, version)
    raise StartError(
        f"BentoML could not build it: {said[-1][:500]}; `bentoml list` shows what is in {home}, "
        "which must be writable"
    )


def check_free(name: str, version: str) -> None:
    """Raises ConfigurationError where there is a Bento of this tag."""
    if (bentoml_home() / "bentos" / name / version).exists():
        raise ConfigurationError(
            f"there is a Bento {name}:{version} already; take another --tag, or remove it: "
            f"bentoml delete {name}:{version}",
            param="tag",
        )


def _run(stage: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {
        **bare_environment(1),
        "BENTOML_HOME": str(bentoml_home()),
        "BENTOML_DO_NOT_TRACK": "True",
        # This machine may lack the devices that the Bento will have.
        "OPEN_LLM_DEVICE": "cpu",
        # Families of other packages are found where they are now.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if Path(path).is_absolute()),
    }
    command = [sys.executable, "-m", "open_llm_server.bento_child", *words]
    with subprocess.Popen(
        command,
        cwd=stage,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_LEAVE_S)
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _too_full(needed: int) -> InsufficientSpace:
    """`needed` in bytes; what is free is counted when BentoML has cleaned up."""
    home = bentoml_home()
    available = space.free(home)
    return InsufficientSpace(
        f"the disk of BENTOML_HOME ({home}), or your quota there, is full: the build needs about "
        f"{needed / 1e6:.1f} MB, and {available / 1e6:.1f} MB are free; make room there, or set "
        "BENTOML_HOME to a folder on a larger disk, and build again",
        needed=needed,
        available=available,
    )
