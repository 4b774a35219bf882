"""A model hub: what it has, and the way of its files into a folder here.

Owns the folder that is filled. huggingface_hub lends its settings and its connection; the bytes are
fetched by `hub_file`, because what the library's own downloader has of a file is lost when the
process dies, and it compares no hashes. They come over plain HTTP, also of models in Xet storage:
hubs give those so to everybody who does not ask for Xet.
"""

from __future__ import annotations

import shutil
import threading
import unicodedata
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from ..errors import WeightsError
from . import hub_cache, hub_errors, hub_http, hub_work
from .durable import discard
from .hub_file import Download, RemoteFile
from .hub_http import Offline, Patience, Refused, Transient
from .hub_listing import Remote, describe
from .manifest import FileRecord
from .progress import Meter

__all__ = ["Remote", "RemoteFile", "already", "describe", "fetch"]

PARTS = ".parts"
"""The folder of what is not whole yet, in the folder that is filled."""


def fetch(
    remote: Remote,
    files: Sequence[RemoteFile],
    folder: Path,
    meter: Meter,
    *,
    patience: Patience | None = None,
) -> list[FileRecord]:
    """Makes `folder` hold exactly `files` of `remote`, each proven by the hash that the hub lists.

    A hub that lists none is believed, and what it sent is recorded as not checked.
    What an earlier try left in `folder` is gone on with, where a hash tells it from all others;
    what else is there is removed. Returns records in the order of `files`. Raises HubUnavailable
    if the hub falls silent; DamagedDownload if it gives other bytes than it lists; WeightsError if
    it no longer has them or sends on to where nobody should follow; OSError where `folder` cannot
    be written; and, in about a second, what the meter's listener raises. What came so far stays
    for the next try.
    """
    _check_paths(remote, files)
    parts = _sweep(folder, files)
    hub_cache.take(remote.id, files, parts, meter)
    total = sum(file.bytes for file in files)
    here, endpoint = already(files, folder), hub_http.endpoint()
    host = hub_http.host(endpoint)
    meter.begin("downloading", total, done=here, note=remote.id, host=host)
    patience, cancelled = patience or Patience.usual(), threading.Event()
    base = f"{endpoint}/{remote.id}/resolve/{remote.commit}"
    ways = [
        Download(
            file=file,
            url=f"{base}/{quote(file.path)}",
            part=parts / file.part,
            target=folder / file.path,
            patience=patience,
            count=partial(meter.add, note=file.path),
            again=meter.ask_again,
            cancelled=cancelled,
        )
        for file in sorted(files, key=lambda file: -file.bytes)
    ]
    try:
        records = {r.path: r for r in hub_work.each([way.run for way in ways], meter, cancelled)}
    except Offline as error:
        raise hub_errors.offline(remote.id) from error
    except Transient as error:
        raise hub_errors.unavailable(remote.id, error, already(files, folder), total) from error
    except Refused as error:
        why = partial(hub_errors.refused, remote.id, remote.commit, error)
        raise hub_work.heard(why, meter) from error
    shutil.rmtree(parts)
    return [records[file.path] for file in files]


def already(files: Sequence[RemoteFile], folder: Path) -> int:
    """Bytes of `files` that an earlier try left in `folder`, and that need not be fetched again."""
    known = [file for file in files if file.known]
    return sum(_size(folder / file.path) or _size(folder / PARTS / file.part) for file in known)


def _size(path: Path) -> int:
    return path.lstat().st_size if path.is_file() and not path.is_symlink() else 0


def _check_paths(remote: Remote, files: Sequence[RemoteFile]) -> None:
    """Raises WeightsError for a file that would be taken for a part, and removed with them."""
    for file in files:
        top = unicodedata.normalize("NFC", file.path.partition("/")[0]).casefold()
        if top == PARTS:
            raise WeightsError(
                f"{remote.id} lists {file.path!r}, and {PARTS} is the folder of what is not whole "
                "yet; nothing was fetched. Take another model, or ask its publisher to rename it"
            )


def _sweep(folder: Path, files: Sequence[RemoteFile]) -> Path:
    """Leaves only parts of `files` in `folder`, of those that their hashes tell from others: whole
    files are parts with nothing missing. Returns the folder of the parts."""
    known = [file for file in files if file.known]
    parts = folder / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    for file in known:
        path = folder / file.path
        if path.is_file() and not path.is_symlink():
            path.replace(parts / file.part)
    wanted = {file.part: file.bytes for file in known}
    for path in [*folder.iterdir(), *parts.iterdir()]:
        if path != parts and not _may_go_on(path, wanted.get(path.name)):
            discard(path)
    return parts


def _may_go_on(path: Path, size: int | None) -> bool:
    """Whether `path` can be a part of a file of `size` bytes. One that has another name elsewhere
    must be whole: adding to it would add to the other."""
    if size is None or path.is_symlink() or not path.is_file():
        return False
    facts = path.stat()
    return facts.st_size == size or (facts.st_size < size and facts.st_nlink == 1)
