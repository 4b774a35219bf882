"""Reads every byte of an imported model, and says whether it is what was imported."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from ..errors import WeightsError
from . import manifest as manifests
from . import model_yaml
from .amend import amend
from .manifest import Entry, FileRecord, Manifest
from .parallel import Step, each, sha256_of
from .progress import Meter


def verify(entry: Entry, meter: Meter) -> list[str]:
    """The faults of `entry`, each with the name of its file; none: it is whole and unchanged.

    Files that are right but have another time, as after copying the store, get that time into the
    manifest, so that `catalog.untouched` takes them again.
    """
    known, times = entry.manifest, _times(entry)
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
        _note_times(entry, times)
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


def _times(entry: Entry) -> dict[str, int]:
    """When each file was last written; those that cannot be looked at are left out."""
    found = {}
    for record in entry.manifest.files:
        with contextlib.suppress(OSError):
            found[record.path] = (entry.folder / record.path).stat().st_mtime_ns
    return found


def _note_times(entry: Entry, times: Mapping[str, int]) -> None:
    """`times`: from before the files were read, so that what is written since still shows."""
    old = entry.manifest.files
    if not all(record.path in times for record in old):
        return
    files = tuple(record.model_copy(update={"mtime_ns": times[record.path]}) for record in old)
    if files == old:
        return

    def change(known: Manifest) -> Manifest:
        # an import may have replaced what was read
        return known.model_copy(update={"files": files}) if known.files == old else known

    # a store that cannot be written to is verified all the same
    with contextlib.suppress(OSError, WeightsError):
        amend(entry, change)
