"""What the system allows a server: open files, its private folder and sockets, and the walls that
conversions of foreign weights stand behind. `judge_*` are pure.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from pathlib import Path

from .cli_figures import size
from .doctor_ask import Answer, ask
from .doctor_finding import Case, Finding
from .supervisor_sockets import listen_unix, runtime_folder

FEW_FILES = 4096
FEWEST_FILES = 32
"""With fewer not even the built-in model's processes begin."""
_FIXED_FILES = 64
"""What a server holds open without any answer, about."""
SMALL = 100_000_000
"""Bytes that a server's private folder never takes, and a library's temporary files may."""
_SHARED = Path("/dev/shm")


def check(_: Case) -> list[Finding]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    found = [judge_files(None if hard == resource.RLIM_INFINITY else hard), _runtime()]
    if _SHARED.parent.is_dir() and not (_SHARED.is_dir() and os.access(_SHARED, os.W_OK)):
        says = f"{_SHARED} cannot be written: libraries that share memory by it may fail"
        found.append(Finding("note", "shared memory", says, f"mount a tmpfs at {_SHARED}"))
    return [*found, judge_walls(ask("walls", tempfile.gettempdir()))]


def judge_files(hard: int | None) -> Finding:
    """`hard`: the most open files that a process may allow itself; `start` raises its own to that.
    `None`: no limit."""
    if hard is None or hard >= FEW_FILES:
        return Finding("ok", "open files", "no limit" if hard is None else f"up to {hard}")
    answers = max(0, (hard - _FIXED_FILES) // 2)
    return Finding(
        "warning" if hard >= FEWEST_FILES else "problem",
        "open files",
        f"at most {hard}, which is about {answers} answers at the same time",
        "raise the hard limit (`ulimit -Hn`, LimitNOFILE= of systemd, --ulimit nofile= of docker)",
    )


def judge_walls(answer: Answer) -> Finding:
    if answer.do:
        return answer.untried("sandbox")
    why = answer.how or answer.facts.get("missing")
    if not why:
        says = "a process can be cut off from network and disk, so that pickles can be converted"
        return Finding("ok", "sandbox", says)
    says = f"no conversion of pickled weights here: {why}"
    return Finding(
        "note",
        "sandbox",
        says,
        "import models that have safetensors, or convert them on another machine",
    )


def _runtime() -> Finding:
    """Makes what a server makes before its processes start, and removes it."""
    try:
        with runtime_folder() as folder:
            listen_unix(folder / "r0.sock").close()
            free = shutil.disk_usage(folder).free
            place = folder.parent
    except OSError as error:
        return Finding(
            "problem",
            "private folder",
            f"no folder with sockets can be made for temporary files: {error.strerror or error}",
            "set TMPDIR to a folder of a local disk that you may write to",
        )
    if free < SMALL:
        says = f"{place} has only {size(free)} free"
        return Finding("warning", "private folder", says, "make room there, or set TMPDIR")
    return Finding("ok", "private folder", f"can be made in {place}")
