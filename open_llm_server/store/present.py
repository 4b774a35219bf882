"""What of a wish is in the store already, so that nothing is asked or fetched twice.

Owns when an import answers another wish: the same source, commit and scheme, unchanged since.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from datetime import datetime, timezone

from ..errors import WeightsError
from . import catalog, local, places, space
from .amend import amend
from .hub import Remote, RemoteFile
from .manifest import MAIN, Entry, FileRecord, Manifest
from .progress import Meter
from .stage import Stage
from .wish import Wish

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def unasked(wish: Wish) -> Entry | None:
    """What answers `wish` without a question to its hub: a commit cannot change; and where
    HF_HUB_OFFLINE forbids to ask, what the revision meant when it was imported counts."""
    revision = wish.source.revision
    if revision and _COMMIT.fullmatch(revision):
        return of_commit(wish, revision)
    if not is_offline():
        return None
    found = catalog.best(_alike(wish), wish.source, wish.name)
    return of_commit(wish, found.manifest.commit or "") if found else None


def of_commit(wish: Wish, commit: str) -> Entry | None:
    """The same import, done before and unchanged since; under the name that is wished, if it is
    there under several."""
    found = [entry for entry in _alike(wish) if entry.manifest.commit == commit]
    called = wish.tag(commit).name
    return min(found, key=lambda entry: entry.tag.name != called, default=None)


def is_called(wish: Wish, entry: Entry) -> bool:
    """Whether `entry` has the name that it would have as `wish`."""
    return entry.tag.name == wish.tag(entry.tag.version).name


def note(wish: Wish, entry: Entry) -> Entry:
    """Makes `entry`, which is called as `wish` says, what the revision means under that name from
    now on, unless the store can only be read. Raises WeightsError."""
    revision = wish.source.revision or MAIN
    found = catalog.find(wish.source, wish.weights, wish.name)
    if found and found.folder == entry.folder:
        return entry

    def change(known: Manifest) -> Manifest:
        now = datetime.now(timezone.utc)
        return known.model_copy(update={"asked_since": {**known.asked_since, revision: now}})

    try:
        return amend(entry, change)
    except FileNotFoundError as error:
        raise WeightsError(f"{entry.tag} was removed meanwhile; import it again") from error
    except OSError as error:
        if error.errno in _READ_ONLY:
            return entry
        with space.explained(places.workshop()):
            raise


def again(entry: Entry, staged: Stage, meter: Meter) -> list[FileRecord]:
    """Brings the files of `entry` into `staged`. Raises WeightsError where they have changed."""
    known = {record.path: record for record in entry.manifest.files}
    staged.reserve(local.bytes_to_copy(entry.folder, [*known], staged.folder))
    records = local.bring(entry.folder, [*known], staged.folder, meter)
    for record in records:
        if record.sha256 != known[record.path].sha256:
            raise WeightsError(
                f"{record.path} of {entry.tag} is not what was imported; remove that model with "
                f"`open-llm-server models rm {entry.tag}`, and import it again"
            )
    return [record.model_copy(update={"checked": known[record.path].checked}) for record in records]


def holder(remote: Remote, files: Sequence[RemoteFile]) -> Entry | None:
    """An import of the same commit that has all of `files` as the hub lists them."""
    for entry in catalog.entries():
        known = entry.manifest
        same = (known.kind, known.location, known.commit) == ("hub", remote.id, remote.commit)
        records = {record.path: record for record in known.files}
        whole = same and all(_is_it(records.get(file.path), file) for file in files)
        if whole and catalog.untouched(entry) is None:
            return entry
    return None


def taken(
    entry: Entry, files: Sequence[RemoteFile], staged: Stage, meter: Meter
) -> list[FileRecord] | None:
    """Brings `files` from `entry` into `staged`; `None` where they are not what they were."""
    known = {record.path: record for record in entry.manifest.files}
    try:
        records = local.bring(entry.folder, [file.path for file in files], staged.folder, meter)
    except WeightsError:
        return None  # somebody is removing it; the hub has it too
    if any(record.sha256 != known[record.path].sha256 for record in records):
        return None
    return [record.model_copy(update={"checked": "hub"}) for record in records]


def _alike(wish: Wish) -> list[Entry]:
    return [
        entry
        for entry in catalog.of_source(wish.source, wish.weights)
        if wish.has_scheme_of(entry.manifest) and catalog.untouched(entry) is None
    ]


def _is_it(record: FileRecord | None, file: RemoteFile) -> bool:
    """What the hub proved then under the same commit has no other content now."""
    return (
        record is not None
        and record.checked == "hub"
        and record.bytes == file.bytes
        and file.sha256 in (None, record.sha256)
    )


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask a hub."""
    from huggingface_hub import constants

    return constants.is_offline_mode()
