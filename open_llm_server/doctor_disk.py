"""The store: where it lies, whether it can be written, how full its disk is, what is wrong in it.

Leaves nothing changed, and reads no weights. `judge_*` and `file_system` are pure.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from .cli_figures import size
from .config.folder import bentoml_home
from .doctor_finding import Case, Finding, Level, joined
from .errors import OpenLLMError, WeightsError
from .store import catalog, places
from .store.remove import leftovers
from .supervisor_store import nearest, try_store

SMALL = 2_000_000_000
"""Bytes of free disk under which hardly a model can be imported."""
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "glusterfs", "afs", "beegfs"}
_MEMORY = {"tmpfs", "ramfs"}


def check(case: Case) -> list[Finding]:
    home = bentoml_home()
    missing = [plan.name for plan in case.plans if plan.missing]
    there = nearest(home)
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        mounts = ""
    found = [_judge_place(home, there, missing)]
    found += judge_file_system(home, file_system(mounts, os.path.realpath(there)))
    if there.is_dir():
        usage = shutil.disk_usage(there)
        found.append(judge_room(usage.free, usage.total, missing))
    if there == home and home.is_dir() and os.access(home, os.R_OK | os.X_OK):
        found += _judge_content(home)
    return found


def file_system(mounts: str, path: str) -> str:
    """The kind of the file system that holds `path`, from /proc/self/mountinfo; empty: unknown."""
    best, kind = "", ""
    for line in mounts.splitlines():
        head, _, tail = line.partition(" - ")
        words = head.split()
        if len(words) < 5 or not tail:
            continue
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal.group(1), 8)), words[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, tail.split()[0]
    return kind


def judge_file_system(home: Path, kind: str) -> list[Finding]:
    other = "set BENTOML_HOME to a folder on another disk"
    if kind in _NETWORK or kind.startswith("fuse."):
        says = f"{home} is on a network's file system ({kind}): models load as fast as that is"
        return [Finding("note", "store", says, f"where that is slow, {other}")]
    if kind in _MEMORY:
        says = f"{home} is in memory ({kind}): what is imported takes memory, and does not last"
        return [Finding("note", "store", says, f"to keep what is imported, {other}")]
    if kind == "overlay":
        says = f"{home} is in the container's own layer: what is imported goes with the container"
        return [Finding("note", "store", says, "mount a volume there, or set BENTOML_HOME to one")]
    return []


def judge_room(free: int, total: int, missing: Sequence[str]) -> Finding:
    """`free` of `total` bytes; `missing`: models that are to be imported."""
    says = f"{size(free)} of {size(total)} free"
    if free >= SMALL:
        return Finding("ok", "disk", says)
    level: Level = "warning" if missing else "note"
    says += f": too little for {joined([*missing])}" if missing else ": too little to import much"
    return Finding(
        level,
        "disk",
        says,
        "open-llm-server models prune, or set BENTOML_HOME to a folder on a larger disk",
    )


def _judge_place(home: Path, there: Path, missing: Sequence[str]) -> Finding:
    """Whether it can be written; what is `missing` needs that, and `doctor_models` says so."""
    level: Level = "warning" if missing else "note"
    if not there.is_dir():
        says = f"BENTOML_HOME is {home}, and {there} is a file"
        return Finding("warning", "store", says, "set BENTOML_HOME to a folder")
    do = "make it writable, or set BENTOML_HOME to a folder that is"
    if there == home and not os.access(home, os.W_OK | os.X_OK):
        says = f"{home} cannot be written: models start from it, and none can be imported"
        return Finding(level, "store", says, do)
    try:
        try_store(home)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # that says nothing of the store
        why = error.strerror or str(error)
        says = f"the folders of {home} cannot be made ({why}): nothing can be imported"
        return Finding("warning", "store", says, do)
    new = "" if there == home else ", which is made when something is imported"
    return Finding("ok", "store", f"{home}{new}")


def _judge_content(home: Path) -> list[Finding]:
    try:
        entries = catalog.entries()
        broken, newer = catalog.broken(), catalog.newer()
    except WeightsError as error:
        return [Finding.of("store", error, "warning")]
    found = []
    damaged = [f"{folder.parent.name}:{folder.name}" for folder in broken]
    for tag in damaged:
        do = f"open-llm-server models rm {tag}, then import it again"
        found.append(Finding("warning", tag, "its manifest is damaged", do))
    for folder in newer:
        tag = f"{folder.parent.name}:{folder.name}"
        says = "a newer release of this server imported it, and this one does not load it"
        found.append(Finding("note", tag, says, "update this server to use it"))
    for entry in entries:
        if fault := catalog.untouched(entry):
            do = f"open-llm-server models verify {entry.tag}"
            found.append(Finding("warning", str(entry.tag), fault, do))
    if not found:
        models = "1 model" if len(entries) == 1 else f"{len(entries)} models"
        says = f"{models}, whole at a glance" if entries else "nothing yet"
        found.append(Finding("ok", "imported", says))
    return [*found, *_judge_leftovers(), *_judge_builds(home)]


def _judge_leftovers() -> list[Finding]:
    places_ = (places.staging(), places.trash())
    if not any(place.is_dir() and any(place.iterdir()) for place in places_):
        return []
    try:
        left = [one for one in leftovers() if one.kind != "replaced"]
    except (OpenLLMError, OSError):
        return []  # a store that cannot be written to
    if not left:
        return []
    taken = size(sum(one.bytes for one in left))
    says = f"{len(left)} left over from imports that were broken off, {taken}"
    do = "import the same again to go on, or remove them: open-llm-server models prune"
    return [Finding("note", "leftovers", says, do)]


def _judge_builds(home: Path) -> list[Finding]:
    """What `build` puts together there; BentoML takes it away at the end, if it gets that far."""
    left = [*(home / "tmp").glob("bentoml_bento_*")]
    if not left:
        return []
    files = (path for folder in left for path in folder.rglob("*"))
    try:
        taken = size(sum(path.lstat().st_size for path in files))
    except OSError:
        return []  # of a build that goes on
    says = f"{len(left)} of builds that go on or were broken off, {taken}"
    do = f"when no build is going on: rm -r {shlex.quote(os.fspath(home))}/tmp/bentoml_bento_*"
    return [Finding("note", "leftovers", says, do)]
