"""Whether the store's folders can be made, which BentoML makes wherever it is imported.

Knows their names, and nothing of what is in them.
"""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

FOLDERS = ("", "bentos", "models", "envs", "tmp")
"""What BentoML makes under its home; the home itself first."""


def make_store(home: Path) -> None:
    """Makes the folders that are missing. Raises OSError where it cannot, or where the home that
    is there cannot be written."""
    for name in FOLDERS:
        (home / name).mkdir(parents=True, exist_ok=True)
    if not os.access(home, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def try_store(home: Path) -> None:
    """Whether `make_store` would succeed, and new things have room in it; leaves nothing behind.

    Raises OSError.
    """
    for name in FOLDERS:
        if os.path.lexists(home / name) and not (home / name).is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{home / name} is not a folder")
    # Not in their own places: a server that starts at the same time may count on what it finds.
    folder = Path(tempfile.mkdtemp(prefix=".open-llm-doctor-", dir=nearest(home)))
    try:
        make_store(folder)
    finally:
        for name in reversed(FOLDERS):
            with suppress(OSError):
                (folder / name).rmdir()


def nearest(path: Path) -> Path:
    """What of `path` is there, as far as this user may see: itself, or a folder above."""
    return next(place for place in (path, *path.parents) if _is_there(place))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
