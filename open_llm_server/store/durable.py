"""What must outlive a power cut: files, folders and renames, written through to the disk.

Knows paths; nothing of models.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def sync_file(path: Path) -> None:
    """Waits until the content of `path` is on the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Waits until the names in `folder` are on the disk."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_tree(folder: Path) -> None:
    """Waits until everything under `folder` is on the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(place, name))
        sync_folder(Path(place))


def make_folder(folder: Path) -> None:
    """Makes `folder` and its parents; their names are on the disk afterwards."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def write(path: Path, text: str) -> None:
    """Writes `path` anew, and waits until its content is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, text: str, *, spare: Path) -> None:
    """Changes `path` in one step. `spare`, a name on the same file system, is used up."""
    write(spare, text)
    spare.replace(path)
    sync_folder(path.parent)


def discard(path: Path) -> None:
    """Removes a file, or a folder with all that is in it; nothing there is fine too."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        # somebody else is at it; of a folder, what they have left is ours
        if path.is_dir() and not path.is_symlink():
            discard(path)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
