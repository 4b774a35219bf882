"""The version that a NAME alone means to BentoML."""

from __future__ import annotations

import contextlib
from pathlib import Path

from . import catalog
from . import manifest as manifests
from .durable import replace
from .locking import STORE, held
from .places import models, workshop

_FILE = "latest"


def point_latest(name: str) -> None:
    """Writes which version of `name` is the newest; without any, its folder goes.

    Versions that other tools keep under the name stay, and BentoML chooses among them; so does what
    a newer release chose. Whoever calls holds the lock of the store.
    """
    home = models() / name
    if manifests.is_newer(home / _said(home)):
        return
    newest = next(iter(catalog.entries(name)), None)
    if newest:
        replace(home / _FILE, newest.tag.version, spare=workshop() / _FILE)
        return
    (home / _FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody else's files are in it, or it is gone
        home.rmdir()


def repair_latest() -> None:
    """Points every name at its newest version where something was broken off before it did.

    Writes nothing where nothing is wrong. Raises WeightsError, OSError.
    """
    if not _wrong():
        return
    with held(STORE):
        for name in _wrong():
            point_latest(name)


def _wrong() -> list[str]:
    """The names whose `latest` is not the newest of their versions, or is left of none."""
    newest: dict[str, Path] = {}
    for entry in catalog.entries():
        newest.setdefault(entry.tag.name, entry.folder)
    homes = sorted(models().iterdir()) if models().is_dir() else []
    return [home.name for home in homes if _is_wrong(home, newest.get(home.name))]


def _is_wrong(home: Path, newest: Path | None) -> bool:
    said = _said(home)
    if newest and said == newest.name:
        return False
    if said and (home / said).is_dir() and not _is_ours(home / said):
        return False
    return newest is not None or (
        home.is_dir() and [path.name for path in home.iterdir()] == [_FILE]
    )


def _is_ours(folder: Path) -> bool:
    """Not another tool's or a newer release's, which say themselves what is the newest."""
    return any(entry.folder == folder for entry in catalog.entries(folder.parent.name))


def _said(home: Path) -> str:
    """What is written there; empty if nothing is."""
    try:
        return (home / _FILE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
