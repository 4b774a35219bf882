"""A model hub: what it has, and the way of its files into a folder here.

Owns the folder that is filled. huggingface_hub lends its settings and its connection; the bytes are
fetched by `hub_file`, because what the library's own downloader has of a file is lost when the
process dies, and it compares no hashes. They come over plain HTTP, also of models in Xet storage:
hubs give those so to everybody who does not ask for Xet.
"""

from __future__ import annotations

import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import quote

from . import hub_cache, hub_errors, hub_http
from .durable import discard
from .hub_file import Download, RemoteFile
from .hub_http import Offline, Patience, Refused, Transient
from .hub_listing import Remote, describe
from .manifest import FileRecord
from .progress import Meter

__all__ = ["Remote", "RemoteFile", "already", "describe", "fetch"]

AT_ONCE = 4
"""Files that are fetched at the same time."""
PARTS = ".parts"
"""The folder of what is not whole yet, in the folder that is filled."""
LEAVING_S = 1.0
"""For which threads that were told to stop are waited for."""


def fetch(
    remote: Remote,
    files: Sequence[RemoteFile],
    folder: Path,
    meter: Meter,
    *,
    patience: Patience | None = None,
) -> list[FileRecord]:
    """Makes `folder` hold exactly `files` of `remote`, each proven by the hub's hash.

    What an earlier try left in `folder` is gone on with; what else is there is removed. Returns
    records in the order of `files`. Raises HubUnavailable if the hub falls silent or gives other
    bytes than it lists; WeightsError if it no longer has them or sends on to where nobody should
    follow; OSError where `folder` cannot be written. What came so far stays for the next try.
    """
    parts = _sweep(folder, files)
    hub_cache.take(remote.id, files, parts, meter)
    total = sum(file.bytes for file in files)
    meter.begin("downloading", total, done=already(files, folder), note=remote.id)
    patience, cancelled = patience or Patience.usual(), threading.Event()
    base = f"{hub_http.endpoint()}/{remote.id}/resolve/{remote.commit}"
    ways = [
        Download(
            file=file,
            url=f"{base}/{quote(file.path)}",
            part=parts / file.part,
            target=folder / file.path,
            patience=patience,
            count=partial(meter.add, note=file.path),
            cancelled=cancelled,
        )
        for file in sorted(files, key=lambda file: -file.bytes)
    ]
    try:
        records = {r.path: r for r in _at_once([way.run for way in ways], cancelled)}
    except Offline as error:
        raise hub_errors.offline(remote.id) from error
    except Transient as error:
        raise hub_errors.unavailable(remote.id, error, already(files, folder), total) from error
    except Refused as error:
        raise hub_errors.refused(remote.id, remote.commit, error) from error
    shutil.rmtree(parts)
    return [records[file.path] for file in files]


def already(files: Sequence[RemoteFile], folder: Path) -> int:
    """Bytes of `files` that an earlier try left in `folder`, and that need not be fetched again."""
    return sum(_size(folder / file.path) or _size(folder / PARTS / file.part) for file in files)


def _size(path: Path) -> int:
    return path.lstat().st_size if path.is_file() and not path.is_symlink() else 0


def _sweep(folder: Path, files: Sequence[RemoteFile]) -> Path:
    """Leaves only parts of `files` in `folder`: whole files are parts with nothing missing. Returns
    the folder of the parts."""
    parts = folder / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    for file in files:
        path = folder / file.path
        if path.is_file() and not path.is_symlink():
            path.replace(parts / file.part)
    wanted = {file.part: file.bytes for file in files}
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


def _at_once(
    jobs: Sequence[Callable[[], FileRecord]], cancelled: threading.Event
) -> Iterator[FileRecord]:
    """What the jobs return, as they are done, a few at a time. The first error ends all."""
    waiting = deque(jobs)
    outcomes: SimpleQueue[FileRecord | BaseException] = SimpleQueue()

    def work() -> None:
        while not cancelled.is_set():
            try:
                job = waiting.popleft()
            except IndexError:
                return
            try:
                outcomes.put(job())
            except BaseException as error:  # raised again where the outcomes are read
                outcomes.put(error)

    # Daemons, so that one that waits for a silent hub keeps no process from ending.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(AT_ONCE, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            outcome = outcomes.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
    finally:
        cancelled.set()
        for thread in threads:
            thread.join(LEAVING_S / len(threads))
