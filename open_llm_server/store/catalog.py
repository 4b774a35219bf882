"""What is in the store. Reads manifests, changes nothing, touches no network.

Folders without a manifest of ours are other tools' models, and none of our business.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..config.models import Source
from ..config.words import suggest
from ..errors import WeightsError
from . import manifest as manifests
from .manifest import Entry, Manifest
from .places import models

_MAIN = {None, "main"}
"""What the main branch is asked for by."""
_SHORTEST_COMMIT = 7
"""Digits from which on a revision may be the beginning of a commit."""


def entries(name: str | None = None) -> list[Entry]:
    """The imported models, newest first; of one `name` only, where it is given.

    Those whose manifest cannot be read are left out: see `broken`.
    """
    found = [
        Entry(folder, manifest)
        for folder in _folders(name)
        if (manifest := _manifest(folder)) is not None
    ]
    # a time without a zone, which only a foreign hand writes, still has a place in the order
    return sorted(
        found, key=lambda entry: (entry.manifest.imported_at.timestamp(), entry.tag), reverse=True
    )


def broken() -> list[Path]:
    """The folders of imported models whose manifest is damaged, or not about that folder."""
    return sorted(folder for folder in _folders(None) if _manifest(folder) is None)


def find(source: Source, weights: Literal["gguf", "folder"]) -> Entry | None:
    """The newest import of what a hub id names; `None` where there is none.

    A revision in `source` must be the one that was asked for then, or the beginning of the commit,
    at least 7 digits of it. Without one, imports of the main branch come first. Imports of local
    paths have a name, and are found by `get` alone.
    """
    if source.kind != "hub":
        return None
    found = [
        entry
        for entry in entries()
        if _is_of(source, weights, entry.manifest) and _is_revision(source.revision, entry.manifest)
    ]
    of_main = [entry for entry in found if entry.manifest.revision in _MAIN]
    return next(iter(of_main if of_main and source.revision is None else found), None)


def get(text: str) -> Entry:
    """The model of the tag NAME:VERSION, or the newest of NAME.

    Raises WeightsError, with what may have been meant.
    """
    name, colon, version = text.partition(":")
    for entry in entries(name):
        if not colon or entry.tag.version == version:
            return entry
    every = entries()
    known = {str(entry.tag) for entry in every} if colon else {entry.tag.name for entry in every}
    raise WeightsError(
        f"{text} is not in the store{suggest(text, known) if known else ''} (`open-llm-server "
        "models list --local` shows what is, `open-llm-server import` brings more)"
    )


def untouched(entry: Entry) -> str | None:
    """What is wrong with the files of `entry` at a glance: missing, of another size, or written to
    since; `None` if nothing is.

    Takes a look at each file, not into it; `verify.verify` reads them.
    """
    for record in entry.manifest.files:
        path = entry.folder / record.path
        try:
            facts = path.stat()
        except OSError as error:
            return f"{record.path} cannot be read: {error.strerror}"
        if facts.st_size != record.bytes:
            return f"{record.path} has {facts.st_size} bytes instead of {record.bytes}"
        if record.mtime_ns not in (0, facts.st_mtime_ns):
            return f"{record.path} was written to since it was imported"
    return None


def _folders(name: str | None) -> Iterator[Path]:
    """The folders that hold a manifest."""
    for home in _subfolders(models()):
        if name is None or home.name == name:
            for folder in _subfolders(home):
                if os.path.lexists(folder / manifests.NAME):
                    yield folder


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as items:
            return [Path(item.path) for item in items if item.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise WeightsError(
            f"the store's folder {folder} cannot be read: {error.strerror}; make it readable, or "
            "set BENTOML_HOME to another folder"
        ) from error


def _manifest(folder: Path) -> Manifest | None:
    """`None` if it is damaged, or if the folder was renamed or copied under another tag."""
    try:
        found = manifests.read(folder)
    except (WeightsError, FileNotFoundError):
        return None
    return found if found.tag == f"{folder.parent.name}:{folder.name}" else None


def _is_of(source: Source, weights: str, known: Manifest) -> bool:
    return (known.kind, known.location, known.file, known.weights) == (
        *("hub", source.location, source.file),
        weights,
    )


def _is_revision(asked: str | None, known: Manifest) -> bool:
    if asked is None or asked == known.revision or {asked, known.revision} <= _MAIN:
        return True
    return len(asked) >= _SHORTEST_COMMIT and (known.commit or "").startswith(asked.lower())
