"""What is in the store. Reads manifests, changes nothing, touches no network.

Folders without a manifest of ours are other tools' models, and none of our business.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from ..config.models import Source
from ..config.words import suggest
from ..errors import WeightsError
from . import manifest as manifests
from .manifest import MAIN, Entry, Manifest
from .places import Tag, models, slug

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


def broken(name: str | None = None) -> list[Path]:
    """The folders of imported models whose manifest is damaged, or not about that folder; of one
    `name` only, where it is given.

    What a newer release wrote is not among them: see `newer`.
    """
    return sorted(
        folder
        for folder in _folders(name)
        if _manifest(folder) is None and not manifests.is_newer(folder)
    )


def newer() -> list[Path]:
    """The folders of models that a newer release of this server wrote: not ours to judge."""
    return sorted(folder for folder in _folders(None) if manifests.is_newer(folder))


def refuse_newer(tag: Tag) -> None:
    """Raises WeightsError where a newer release's model has `tag`: it must not be replaced."""
    if manifests.is_newer(tag.folder):
        raise WeightsError(manifests.newer_words(tag.folder))


def find(
    source: Source, weights: Literal["gguf", "folder"], name: str | None = None
) -> Entry | None:
    """The import of what a hub id names that is started as `name`; `None` where there is none.

    What was imported as `name` comes first, then what is called as the source is, then the newest
    of the others; of those, none that is quantised: it was made smaller for another name alone.
    A revision in `source` must be one that it was asked for by, or the beginning of the commit, at
    least 7 digits of it. Without one, the main branch is meant. What was asked for last under that
    revision counts as the newest. Imports of local paths have a name, and are found by `get` alone.
    """
    names = _names(source, name)
    found = [
        entry
        for entry in of_source(source, weights)
        if entry.tag.name in names or entry.manifest.quantised is None
    ]
    return best(found, source, name)


def best(found: Sequence[Entry], source: Source, name: str | None) -> Entry | None:
    """What `source` means as `name` among `found`, imports of it: in the order that `find` says."""
    for called in _names(source, name):
        own = [entry for entry in found if entry.tag.name == called]
        if meant := newest(own, source.revision):
            return meant
    return newest(found, source.revision)


def newest(found: Sequence[Entry], revision: str | None) -> Entry | None:
    """What `revision` means among `found`, imports of one source."""
    revision = revision or MAIN
    named = [entry for entry in found if revision in entry.manifest.asked]
    if named:
        return max(named, key=lambda entry: entry.manifest.asked[revision].timestamp())
    return next((entry for entry in found if _is_commit(revision, entry.manifest)), None)


def of_source(source: Source, weights: Literal["gguf", "folder"]) -> list[Entry]:
    """All imports of what a hub id names, of whichever revision, newest first."""
    if source.kind != "hub":
        return []
    return [entry for entry in entries() if _is_of(source, weights, entry.manifest)]


def get(text: str) -> Entry:
    """The model of the tag NAME:VERSION, or the newest of NAME.

    Raises WeightsError, with what may have been meant.
    """
    name, colon, version = text.partition(":")
    for entry in entries(name):
        if not colon or entry.tag.version == version:
            return entry
    for folder in newer():
        if folder.parent.name == name and (not colon or folder.name == version):
            raise WeightsError(manifests.newer_words(folder))
    for folder in broken(name):
        if not colon or folder.name == version:
            tag = f"{name}:{folder.name}"
            raise WeightsError(
                f"{tag} is damaged: its manifest cannot be read, or is not about it; "
                f"`open-llm-server models rm {tag}` removes it, then import it again"
            )
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


def _names(source: Source, name: str | None) -> list[str]:
    """What imports of `source` are called for those who call it `name`."""
    return [slug(text) for text in (name, source.location) if text]


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
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        place = next(place for place in (folder, *folder.parents) if place.exists())
        raise WeightsError(
            f"{place} is a file, and the store wants a folder there; set BENTOML_HOME to a folder, "
            "or move the file away"
        ) from error
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
    # the only GGUF file of a repository is the same with its name and without
    file = known.origin_file if source.file else known.file
    return (known.kind, known.location, file, known.weights) == (
        *("hub", source.location, source.file),
        weights,
    )


def _is_commit(asked: str, known: Manifest) -> bool:
    return len(asked) >= _SHORTEST_COMMIT and (known.commit or "").startswith(asked.lower())
