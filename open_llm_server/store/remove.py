"""Takes things out of the store: models, and what nobody needs any more.

What is removed is first renamed into the trash, which is one step: nobody finds half of it, and
what a server has open or mapped stays with that server until it closes it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

from ..errors import WeightsError
from . import catalog, places, space
from . import manifest as manifests
from .durable import discard, make_folder, sync_folder
from .latest import point_latest, repair_latest
from .locking import STORE, held, held_if_free
from .manifest import Entry

STALE_S = 24 * 3600.0
"""Age from which on an unfinished import is removed without being asked to."""


@dataclass(frozen=True)
class Leftover:
    """Something that `prune` removes."""

    path: Path
    kind: Literal["unfinished", "replaced", "trash"]
    """An import that was broken off; one that a newer import of the same replaced; one that was
    removed, but not to the end."""
    bytes: int
    """That its removal frees, at least while nobody has it open."""
    tag: str | None = None
    """Of a replaced one."""


def remove(what: Entry | Path) -> None:
    """Removes a model: an entry of the catalogue, or a folder of `catalog.broken`.

    Raises WeightsError.
    """
    folder = what.folder if isinstance(what, Entry) else what
    if folder.parent.parent != places.models():
        raise WeightsError(
            f"{folder} is not in the store; `open-llm-server models list --local` shows what is"
        )
    if manifests.is_newer(folder):
        raise WeightsError(manifests.newer_words(folder))
    with space.explained(places.models()):
        make_folders()
        with held(STORE):
            if not folder.exists():
                raise WeightsError(
                    f"{folder.parent.name}:{folder.name} is gone already; `open-llm-server models "
                    "list --local` shows what is there"
                )
            to_trash(folder)
            point_latest(folder.parent.name)
        empty_trash()


def leftovers() -> list[Leftover]:
    """What `prune` would remove now: imports that are going on are not among it.

    Raises WeightsError.
    """
    with space.explained(places.workshop()):
        return [*_leftovers()]


def prune(chosen: Sequence[Leftover] | None = None) -> list[Leftover]:
    """Removes `chosen`, or all leftovers; returns what is gone. Raises WeightsError."""
    gone: list[Leftover] = []
    with space.explained(places.models()):
        repair_latest()
    chosen = leftovers() if chosen is None else chosen
    if not chosen:
        return gone
    with space.explained(places.workshop()):
        make_folders()
        for leftover in chosen:
            if leftover.kind == "unfinished":
                done = _drop_stage(leftover.path)
            elif leftover.kind == "replaced":
                done = _drop_replaced(leftover.path)
            else:
                done = True
            gone += [leftover] if done else []
        empty_trash()
        for lock in _inside(places.locks()):
            _is_free(lock.stem)  # which also removes what a killed import left of it
    return gone


def sweep(*, sparing: str | None = None) -> None:
    """Removes unfinished imports that nobody has worked on for a day, but `sparing`, and the
    trash."""
    for path in _inside(places.staging()):
        with contextlib.suppress(OSError):  # somebody else is at it
            if path.name != sparing and time.time() - _last_change(path) > STALE_S:
                _drop_stage(path)
    empty_trash()


def make_folders() -> None:
    """Makes the folders of the store."""
    for folder in (places.models(), places.staging(), places.trash(), places.locks()):
        make_folder(folder)


def to_trash(path: Path) -> None:
    """Takes `path` away, in one step."""
    path.rename(places.trash() / f"{path.name}-{uuid4().hex}")
    sync_folder(path.parent)


def empty_trash() -> None:
    """Removes what was thrown away; what cannot be removed stays for the next time."""
    for path in _inside(places.trash()):
        with contextlib.suppress(OSError):
            discard(path)


def _leftovers() -> Iterator[Leftover]:
    for path in _inside(places.staging()):
        if _is_free(path.name):
            yield Leftover(path, "unfinished", space.taken(path))
    for entry in _replaced():
        yield Leftover(entry.folder, "replaced", space.taken(entry.folder), str(entry.tag))
    for path in _inside(places.trash()):
        yield Leftover(path, "trash", space.taken(path))


def _drop_stage(path: Path) -> bool:
    with held_if_free(path.name) as free:
        if free and path.exists():
            to_trash(path)
    return free


def _drop_replaced(folder: Path) -> bool:
    """Looks again first: the newer one may have gone meanwhile."""
    entry = next((entry for entry in _replaced() if entry.folder == folder), None)
    if entry:
        with contextlib.suppress(WeightsError):  # somebody else has removed it
            remove(entry)
    return entry is not None


def _replaced() -> Iterator[Entry]:
    """Imports of the same as a newer one, under the same name. Each revision that led to one counts
    by itself: what is the newest of any stays."""
    newest: dict[tuple[str | None, ...], tuple[float, Entry]] = {}
    every = catalog.entries()
    for entry in every:
        for origin, asked in _origins(entry).items():
            if origin not in newest or asked > newest[origin][0]:
                newest[origin] = asked, entry
    needed = {entry.folder for _, entry in newest.values()}
    yield from (entry for entry in every if entry.folder not in needed)


def _origins(entry: Entry) -> dict[tuple[str | None, ...], float]:
    """What `entry` answers to, and since when."""
    known = entry.manifest
    scheme = known.quantised.scheme if known.quantised else None
    what = (known.kind, known.location, known.file, scheme, entry.tag.name)
    return {(*what, revision): when.timestamp() for revision, when in known.asked.items()}


def _is_free(name: str) -> bool:
    with held_if_free(name) as free:
        return free


def _last_change(path: Path) -> float:
    times = [path.lstat().st_mtime]
    if path.is_dir():
        times += [inner.lstat().st_mtime for inner in path.rglob("*")]
    return max(times)


def _inside(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(folder.iterdir())
    except FileNotFoundError:
        return
