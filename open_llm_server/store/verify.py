"""Reads every byte of an imported model, and says whether it is what was imported."""

from __future__ import annotations

import contextlib

from ..errors import WeightsError
from . import manifest as manifests
from . import model_yaml, places
from .durable import replace
from .locking import STORE, held
from .manifest import Entry, FileRecord
from .parallel import Step, each, sha256_of
from .progress import Meter


def verify(entry: Entry, meter: Meter) -> list[str]:
    """The faults of `entry`, each with the name of its file; none: it is whole and unchanged.

    Files that are right but have another time, as after copying the store, get that time into the
    manifest, so that `catalog.untouched` takes them again.
    """
    known = entry.manifest
    meter.begin("checking", known.bytes, note=str(entry.tag))
    faults = [
        fault
        for fault in each(lambda record, step: _fault(entry, record, step), known.files, meter)
        if fault
    ]
    belonging = {record.path for record in known.files} | {manifests.NAME, model_yaml.NAME}
    there = {
        path.relative_to(entry.folder).as_posix()
        for path in entry.folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    faults += [f"{name}: does not belong to the model" for name in sorted(there - belonging)]
    if model_yaml.NAME not in there:
        faults.append(f"{model_yaml.NAME}: missing")
    if not faults:
        _note_times(entry)
    return faults


def _fault(entry: Entry, record: FileRecord, step: Step) -> str | None:
    path = entry.folder / record.path
    try:
        size = path.stat().st_size
        if size != record.bytes:
            return f"{record.path}: {size} bytes instead of {record.bytes}"
        digest = sha256_of(path, step)
    except FileNotFoundError:
        return f"{record.path}: missing"
    except OSError as error:
        return f"{record.path}: cannot be read: {error.strerror or error}"
    if digest != record.sha256:
        return f"{record.path}: its content has changed (sha256 {digest}, was {record.sha256})"
    return None


def _note_times(entry: Entry) -> None:
    old = entry.manifest
    files = tuple(
        record.model_copy(update={"mtime_ns": (entry.folder / record.path).stat().st_mtime_ns})
        for record in old.files
    )
    if files == old.files:
        return
    # a store that cannot be written to is verified all the same
    with contextlib.suppress(OSError, WeightsError), held(STORE):
        text = old.model_copy(update={"files": files}).model_dump_json(indent=1)
        replace(entry.folder / manifests.NAME, text, spare=places.workshop() / manifests.NAME)
