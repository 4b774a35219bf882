"""Room on the disk: how much is free, and what is said when it is too little.

Knows paths and bytes; nothing of models.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..config.folder import bentoml_home
from ..errors import InsufficientSpace, WeightsError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EIO)
_BLOCK = 512
"""Bytes that `st_blocks` counts in."""


def free(folder: Path) -> int:
    """Bytes that may still be written to the file system of `folder`."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    facts = os.statvfs(there)
    return facts.f_bavail * facts.f_frsize


def taken(folder: Path) -> int:
    """Bytes that the files under `folder` take by themselves: what is hard-linked from elsewhere
    takes none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # somebody else is removing it
                facts = os.lstat(Path(place, name))
                total += facts.st_blocks * _BLOCK if facts.st_nlink == 1 else 0
    return total


def require(folder: Path, needed: int) -> None:
    """Raises InsufficientSpace where `needed` more bytes do not fit."""
    available = free(folder)
    if needed > available:
        raise _too_full(needed, available)


@contextmanager
def explained(folder: Path, needed: Callable[[], int | None] = lambda: None) -> Iterator[None]:
    """Says in words what a disk answers to writing under `folder`.

    Raises InsufficientSpace (`needed` gives the bytes that are still to be written, where that is
    known) and WeightsError; errors that are about other places pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _too_full(needed(), free(folder), error) from error
        if error.errno == errno.EFBIG:
            raise WeightsError(
                f"the file system of {folder} takes no files of this size, or a limit forbids "
                "them (`ulimit -f`); set BENTOML_HOME to a folder elsewhere"
            ) from error
        if error.errno == errno.EROFS or (error.errno in _CLOSED and _is_ours(error)):
            raise WeightsError(
                f"BENTOML_HOME ({bentoml_home()}) cannot be written: "
                f"{error.strerror or error}{_where(error)}; make it writable, or set BENTOML_HOME "
                "to a folder that is"
            ) from error
        raise


def _is_ours(error: OSError) -> bool:
    """Whether it is about a file of the store."""
    home = os.fspath(bentoml_home())
    names = (error.filename, error.filename2)
    return any(isinstance(name, str | os.PathLike) and _is_under(name, home) for name in names)


def _is_under(name: str | os.PathLike[str], home: str) -> bool:
    text = os.fspath(name)
    # a parent of the folder stands in the way when the folder itself cannot be made
    return text == home or text.startswith(home + os.sep) or home.startswith(text + os.sep)


def _where(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""


def _too_full(
    needed: int | None, available: int, error: OSError | None = None
) -> InsufficientSpace:
    needs = "more than that" if needed is None else f"{_size(needed)}"
    what = (
        f"the disk of BENTOML_HOME ({bentoml_home()}) has {_size(available)} free, and the import "
        f"needs {needs}"
    )
    if error is not None and error.errno == errno.EDQUOT:
        what = (
            f"the disk quota of BENTOML_HOME ({bentoml_home()}) is used up, and the import needs "
            f"{needs}"
        )
    return InsufficientSpace(
        f"{what}; make room (`open-llm-server models prune` removes leftovers), or set "
        "BENTOML_HOME to a folder on a larger disk, and import again",
        needed=needed,
        available=available,
    )


def _size(count: int) -> str:
    """Exact, and for reading."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{count} bytes" if unit == "B" else f"{count} bytes ({value:.1f} {unit})"
