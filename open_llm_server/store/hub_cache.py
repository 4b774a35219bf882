"""What huggingface_hub's own cache on this machine has already. Reads it, never writes to it.

Owns how that cache is laid out: contents in `blobs`, named by the hub's hash of them; commits in
`snapshots`, as links to contents; names of commits in `refs`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import WeightsError
from . import local
from .hub_file import RemoteFile, is_right
from .progress import Meter

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def snapshot(id: str, revision: str | None) -> tuple[str, list[RemoteFile]] | None:
    """The commit that `revision` was when it was last fetched, and the files of it that are here.
    `None` if there are none."""
    home, commit = _home(id), revision or "main"
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (home / "refs" / commit).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
    folder = home / "snapshots" / commit
    if not _COMMIT.fullmatch(commit) or not folder.is_dir():
        return None
    files = sorted(_files(folder), key=lambda file: file.path)
    return (commit, files) if files else None


def take(id: str, files: Sequence[RemoteFile], parts: Path, meter: Meter) -> None:
    """Puts those of `files` that the cache has into the folder `parts`, under the names of their
    parts: linked where that is safe, else copied, and proven by the hub's hash."""
    blobs, missing = _home(id) / "blobs", [file for file in files if not _whole(file, parts)]
    here = {
        name: file
        for file in missing
        if (name := file.sha256 or file.git_sha1) and _has(blobs / name, file.bytes)
    }
    if not here:
        return
    spare = parts / "cached"
    spare.mkdir()
    try:
        for record in local.bring(blobs, [*here], spare, meter):
            file, path = here[record.path], spare / record.path
            if record.sha256 == file.sha256 or (not file.sha256 and is_right(path, file)):
                path.replace(parts / file.part)
    except WeightsError:
        pass  # somebody is at work in the cache; the hub has it too
    finally:
        shutil.rmtree(spare)


def _home(id: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, "models--" + id.replace("/", "--"))


def _files(folder: Path) -> Iterator[RemoteFile]:
    for path in folder.rglob("*"):
        if path.is_symlink() and path.is_file():
            name, size = path.readlink().name, path.stat().st_size
            large, small = _SHA256.fullmatch(name), _COMMIT.fullmatch(name)
            if large or small:
                yield RemoteFile(
                    path.relative_to(folder).as_posix(),
                    size,
                    name if large else None,
                    name if small else None,
                )


def _whole(file: RemoteFile, parts: Path) -> bool:
    return _has(parts / file.part, file.bytes)


def _has(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False
