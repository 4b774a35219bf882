"""The memory limit of the container that this process runs in. Reads the system, knows no engine.

Limits count the pages of files that were read, and those go when memory is wanted: what is left
is reckoned without them, or every import would leave no room for the model that it brought.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class _Names:
    """How a version of cgroups calls its files."""

    limit: str
    used: str
    pages: tuple[str, str]
    """Of files, in memory.stat."""


_SECOND = _Names("memory.max", "memory.current", ("inactive_file", "active_file"))
_FIRST = _Names(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)


def free_here(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> int | None:
    """Bytes that may still be allocated within all limits above this process; `None` without."""
    found = [
        free
        for folder in _folders(root, proc)
        for names in (_SECOND, _FIRST)
        if (free := _free(folder, names)) is not None
    ]
    return min(found, default=None)


def _folders(root: Path, proc: Path) -> list[Path]:
    """The folders of this process's own group and of all above it, in both versions."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    tops = {"": root, "memory": root / "memory"}
    folders = list(tops.values())
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        top = next((tops[name] for name in controllers.split(",") if name in tops), None)
        if top:
            inner = top / path.lstrip("/")
            folders += [inner, *(folder for folder in inner.parents if top in folder.parents)]
    return folders


def _free(folder: Path, names: _Names) -> int | None:
    try:
        limit = int((folder / names.limit).read_text(encoding="ascii"))
        used = int((folder / names.used).read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):  # no such group, or one without a limit ("max")
        return None
    stat = dict(line.split(maxsplit=1) for line in lines if " " in line)
    pages = sum(int(stat.get(name, 0)) for name in names.pages)
    return max(0, limit - max(0, used - pages))
