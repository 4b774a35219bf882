"""Small models for the store, imported as the server imports them but without a look inside."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from open_llm_server.store import catalog, local, places, verify
from open_llm_server.store.manifest import Entry, FileRecord, Manifest
from open_llm_server.store.progress import Meter
from open_llm_server.store.stage import stage

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
KEY = "small-0123456789ab"
TAG = "small:0123456789ab"


def manifest_of(files: Iterable[FileRecord] = (), **facts: Any) -> Manifest:
    """A manifest of `files`; `facts` replace parts of it."""
    whole: dict[str, Any] = {
        "tag": TAG,
        "family": "llama",
        "weights": "gguf",
        "kind": "path",
        "location": "/somewhere/model.gguf",
        "imported_at": NOON,
        "files": tuple(files),
        "server": "0.1.0",
        **facts,
    }
    return Manifest(**whole)


def import_folder(
    root: Path, *, key: str = KEY, meter: Meter | None = None, reserve: bool = True, **facts: Any
) -> Entry:
    """Everything in `root`, through stage, `bring` and `publish`."""
    meter = meter or Meter()
    with stage(key, meter=meter) as staged:
        names = local.names(root)
        if reserve:
            staged.reserve(local.bytes_to_copy(root, names, staged.folder))
        records = local.bring(root, names, staged.folder, meter)
        return staged.publish(manifest_of(records, **facts))


def later(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def write_source(folder: Path, *, size: int = 40_000, files: int = 4, shared: bool = False) -> Path:
    """Files of random bytes, one of them in a folder. Not `shared`: others may write to them, so
    that they are copied."""
    draw = random.Random(files)
    for number in range(files):
        path = folder / (f"inner/{number}.json" if number == 1 else f"{number}.gguf")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw.randbytes(size))
        path.chmod(0o644 if shared else 0o666)
    return folder


def faults() -> list[str]:
    """What is wrong with the store: it holds whole models only, at any time."""
    found = [f"{folder}: damaged" for folder in catalog.broken()]
    entries = catalog.entries()
    for entry in entries:
        found += verify.verify(entry, Meter())
    versions = {path for path in places.models().glob("*/*/") if path.is_dir()}
    return found + [f"{path}: no model" for path in versions - {entry.folder for entry in entries}]


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of each file below `folder`, by its path there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def leftovers() -> list[Path]:
    """What imports left behind that nobody needs."""
    return [
        path for path in places.workshop().rglob("*") if path.is_file() and path.suffix != ".lock"
    ]
