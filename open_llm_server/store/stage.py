"""Where an import is made before it is a model: one at a time, whole or not at all.

Everything is prepared in a folder of its own on the store's file system, written through to the
disk, and becomes a model by one rename. Whenever that ends, by a kill or by a power cut, the store
holds whole models only, and what was begun waits in the stage for the next try.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..config.folder import bentoml_home
from ..errors import DamagedDownload, InsufficientSpace, OpenLLMError, WeightsError
from . import catalog, model_yaml, places, remove, space
from . import manifest as manifests
from .amend import rewrite
from .durable import discard, make_folder, sync_folder, sync_tree, write
from .latest import point_latest, repair_latest
from .locking import STORE, held
from .manifest import Entry, FileRecord, Manifest
from .places import Tag
from .progress import Meter


@dataclass
class Stage:
    """A folder in which one import is made, held by this process alone."""

    folder: Path
    """What an interrupted try of the same import left is still in it."""
    _needed: int | None = field(default=None, init=False)

    def reserve(self, needed: int) -> None:
        """Checks that the folder can hold `needed` bytes, those in it already included.

        Raises InsufficientSpace.
        """
        self._needed = needed
        space.require(self.folder, self.left() or 0)

    def left(self) -> int | None:
        """Bytes of the reserved ones that are still to be written."""
        if self._needed is None:
            return None
        return max(0, self._needed - space.taken(self.folder))

    def publish(self, manifest: Manifest) -> Entry:
        """Makes the folder the model `manifest.tag`; only the files of the manifest remain.

        Where the same files stand under that tag, those stay and get the new manifest; anything
        else there is replaced, but what a newer release wrote. The revisions that led to the same
        before are kept. Raises WeightsError where a file is not as the manifest says, and
        InsufficientSpace.
        """
        tag = Tag.parse(manifest.tag)
        catalog.refuse_newer(tag)
        whole = self._only_what_belongs(manifest)
        model_yaml.write_model_yaml(self.folder, whole)
        write(self.folder / manifests.NAME, whole.model_dump_json(indent=1))
        sync_tree(self.folder)
        with held(STORE):
            catalog.refuse_newer(tag)
            present = _readable(tag.folder)
            whole = _with_revisions(whole, present)
            if present and _is_usable(tag.folder, present) and _same_files(present, whole):
                whole = _adopt(tag.folder, present, whole)
            else:
                write(self.folder / manifests.NAME, whole.model_dump_json(indent=1))
                _move(self.folder, tag.folder)
            point_latest(tag.name)
        return Entry(tag.folder, whole)

    def _only_what_belongs(self, manifest: Manifest) -> Manifest:
        wanted = {record.path for record in manifest.files}
        if wanted & {manifests.NAME, model_yaml.NAME}:
            raise WeightsError(
                f"a model cannot bring files named {manifests.NAME} or {model_yaml.NAME}; the "
                "store writes them itself: rename them"
            )
        for path in sorted(self.folder.rglob("*"), reverse=True):  # folders after their content
            name = path.relative_to(self.folder).as_posix()
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif name not in wanted:
                path.unlink()
        records = tuple(_checked(self.folder, record) for record in manifest.files)
        return manifest.model_copy(update={"files": records})


@contextmanager
def stage(key: str, *, meter: Meter) -> Iterator[Stage]:
    """The stage of the import `key`, alone; waits for another import of it, in phase "waiting".

    Who waited should ask the catalogue again: the other import may have done it all. Afterwards
    the stage is gone, unless another try can go on from it: after an interruption, a full disk or
    an error that passes, what is in it stays, for a day at least. Raises WeightsError where the
    store cannot be written, and turns a full disk into InsufficientSpace.
    """
    staged = Stage(places.staging() / key)
    with space.explained(places.workshop(), staged.left):
        remove.make_folders()
        with held(STORE):
            _require_one_file_system()
        repair_latest()
        remove.sweep(sparing=key)
        with held(key, waiting=_teller(meter)):
            make_folder(staged.folder)
            try:
                yield staged
            except BaseException as error:
                if not _may_go_on(error):
                    discard(staged.folder)
                raise
            discard(staged.folder)
        remove.empty_trash()


def _teller(meter: Meter) -> Callable[[], None]:
    begun = False

    def tell() -> None:
        nonlocal begun
        if not begun:
            meter.begin("waiting", note="for another import of the same model")
        begun = True
        meter.add(0)

    return tell


def _may_go_on(error: BaseException) -> bool:
    """Whether the next try can use what this one has: what was refused would be refused again."""
    if isinstance(error, OpenLLMError):
        # The other files of a damaged download are whole.
        return error.passes or isinstance(error, InsufficientSpace | DamagedDownload)
    return True


def _require_one_file_system() -> None:
    """By a rename, because mounts of one file system in several places count as several."""
    probe = places.workshop() / "probe"
    probe.touch()
    target = places.models() / ".open-llm-server-probe"
    try:
        probe.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        raise _other_file_system(places.models()) from error
    finally:
        probe.unlink(missing_ok=True)
        target.unlink(missing_ok=True)


def _other_file_system(folder: Path) -> WeightsError:
    return WeightsError(
        f"{folder} is on another file system than {places.workshop()}, so that nothing can be "
        f"moved between them in one step; mount the whole of BENTOML_HOME ({bentoml_home()}), or "
        "set BENTOML_HOME to a folder inside of that mount"
    )


def _checked(folder: Path, record: FileRecord) -> FileRecord:
    try:
        facts = (folder / record.path).lstat()
    except FileNotFoundError:
        raise WeightsError(f"{record.path} was not brought; import again") from None
    if not stat.S_ISREG(facts.st_mode):
        raise WeightsError(f"{record.path} is not a regular file; only those are imported")
    if facts.st_size != record.bytes or record.mtime_ns not in (0, facts.st_mtime_ns):
        raise WeightsError(
            f"{record.path} changed after it was hashed; import again when nothing writes to it"
        )
    return record.model_copy(update={"mtime_ns": facts.st_mtime_ns})


def _readable(folder: Path) -> Manifest | None:
    """The manifest in `folder`, if there is one that is not damaged."""
    try:
        return manifests.read(folder)
    except (WeightsError, OSError):
        return None


def _with_revisions(new: Manifest, present: Manifest | None) -> Manifest:
    """`new`, with the revisions by which the same was asked for before."""
    if present is None or _origin(present) != _origin(new):
        return new
    before = {name: when for name, when in present.asked.items() if name not in new.asked}
    return new.model_copy(update={"asked_since": {**before, **new.asked_since}})


def _origin(manifest: Manifest) -> tuple[str | None, ...]:
    return manifest.kind, manifest.location, manifest.commit


def _is_usable(folder: Path, present: Manifest) -> bool:
    """Whether a whole model is in `folder`."""
    whole = catalog.untouched(Entry(folder, present)) is None
    return whole and (folder / model_yaml.NAME).is_file()


def _same_files(one: Manifest, other: Manifest) -> bool:
    return _contents(one) == _contents(other)


def _contents(manifest: Manifest) -> dict[str, str]:
    return {record.path: record.sha256 for record in manifest.files}


def _adopt(folder: Path, present: Manifest, new: Manifest) -> Manifest:
    """Gives the files in `folder` the manifest `new`."""
    times = {record.path: record.mtime_ns for record in present.files}
    files = tuple(
        record.model_copy(update={"mtime_ns": times[record.path]}) for record in new.files
    )
    whole = new.model_copy(update={"files": files})
    rewrite(Entry(folder, present), whole)
    return whole


def _move(source: Path, target: Path) -> None:
    make_folder(target.parent)
    try:
        if os.path.lexists(target):
            remove.to_trash(target)
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        raise _other_file_system(target.parent) from error
    sync_folder(target.parent)
    sync_folder(source.parent)
