"""Files of this machine, brought into a stage: shared with their source where that is safe.

A file becomes a reflink (a copy that takes no space until one side is written to), else a hard
link, else a copy that is hashed while it is written. A hard link is made only of a file that
belongs to us and that nobody else may write to; what its owner writes to it later shows in the
recorded time. Whoever works on a stage makes new files: writing into one could change its source.
"""

from __future__ import annotations

import fcntl
import grp
import hashlib
import os
import pwd
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from ..errors import WeightsError
from .durable import discard
from .manifest import FileRecord
from .parallel import BLOCK, Step, each, sha256_of
from .progress import Meter

_FICLONE = 0x40049409
"""The request by which Linux shares the data of a file."""
_MOST_NAMES = 20_000
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def names(root: Path) -> list[str]:
    """The files of `root` and of the folders in it, sorted, with `/`; hidden folders are left out.

    Links count as what they lead to. Raises WeightsError.
    """
    try:
        found = sorted(_names(root, depth=1))
    except OSError as error:
        raise WeightsError(
            f"{root} cannot be read: {error.strerror}; name a file, or a folder that can be"
        ) from error
    if len(found) > _MOST_NAMES:
        raise WeightsError(
            f"{root} holds more than {_MOST_NAMES} files; put the model into a folder of its own"
        )
    return found


def refuse_ways_out(root: Path, names: Sequence[str]) -> None:
    """Raises WeightsError for links that lead out of `root`: an unpacked archive must not bring
    other files of its reader's. Those of a hub's cache do: its snapshots link to its blobs."""
    whole = root.resolve()
    for name in names:
        target = Path(os.path.realpath(root / name))
        inside = target.is_relative_to(whole) or not target.exists()  # which `bring` says
        if not inside and not _is_blob(target):
            raise WeightsError(
                f"{root / name} leads out of its folder, to {target}, and a model's folder must "
                "not bring in what lies elsewhere; put the file itself there, if it is yours"
            )


def bytes_of(root: Path, names: Sequence[str]) -> int:
    """Bytes of the files together. Raises WeightsError for those that `bring` would refuse."""
    return sum(_Source(root, name).facts.st_size for name in names)


def bytes_to_copy(root: Path, names: Sequence[str], folder: Path) -> int:
    """Bytes that `bring` will write: of files that cannot share their data. Raises WeightsError."""
    sources = [_Source(root, name) for name in names]
    left = [source for source in sources if not _may_link(source.facts, folder)]
    whole = next((source for source in left if source.facts.st_size), None)
    # files without content share nothing, and tell nothing of whether others can
    if whole is None or _clones(whole.path, folder):
        return 0
    return sum(source.facts.st_size for source in left)


def bring(root: Path, names: Sequence[str], folder: Path, meter: Meter) -> list[FileRecord]:
    """Puts the files `names` of `root` into `folder`, several at once; what else is there goes.

    Symbolic links in `root` count as the regular files that they lead to. Raises WeightsError for
    a file that is not regular, cannot be read, or changes meanwhile; OSError where `folder` cannot
    be written, with ENOSPC where it is full.
    """
    for old in [*folder.iterdir()]:
        discard(old)
    sources = [_Source(root, name) for name in dict.fromkeys(names)]
    meter.begin("copying", sum(source.facts.st_size for source in sources))
    return each(lambda source, step: source.bring(folder, step), sources, meter)


def records(folder: Path, meter: Meter) -> list[FileRecord]:
    """All files under `folder` but hidden ones, hashed anew. Raises OSError."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]
    meter.begin("checking", sum(path.stat().st_size for path in files))
    return each(lambda path, step: _record(path, folder, sha256_of(path, step)), files, meter)


class _Source:
    """One file that is brought."""

    def __init__(self, root: Path, name: str) -> None:
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in name:
            raise WeightsError(f"{name!r} is not the name of a file of {root}; rename it")
        self.name, self.path = name, root / name
        try:
            str(self.path).encode()
        except UnicodeEncodeError:
            raise WeightsError(
                f"{str(self.path)!r} is not a name in UTF-8, and the store keeps only those; "
                "rename it"
            ) from None
        self.facts = self._look()

    def bring(self, folder: Path, step: Step) -> FileRecord:
        target = folder / self.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if _clone(self.path, target) or self._link(target, folder):
            digest = sha256_of(target, step)
        else:
            digest = self._copy(target, step)
        now = self._look()
        if _version(now) != _version(self.facts) or target.stat().st_size != now.st_size:
            raise WeightsError(
                f"{self.path} changed while it was imported; import it again when it is complete"
            )
        return _record(target, folder, digest)

    def _look(self) -> os.stat_result:
        try:
            facts = self.path.stat()
        except OSError as error:
            raise self._unreadable(error) from error
        if not stat.S_ISREG(facts.st_mode):
            raise WeightsError(
                f"{self.path} is not a regular file, and only those are imported; name the file "
                "or folder that holds the weights themselves"
            )
        return facts

    def _link(self, target: Path, folder: Path) -> bool:
        try:
            if _may_link(self.facts, folder):
                # resolved, because the link itself would lead nowhere from there
                os.link(self.path.resolve(strict=True), target)
                return True
        except OSError:
            pass  # another mount of the same file system, or one without hard links
        return False

    def _copy(self, target: Path, step: Step) -> str:
        try:
            # It may have become a pipe since we looked: opening must not wait for a writer.
            source = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise self._unreadable(error) from error
        try:
            with target.open("xb", buffering=0) as file:
                return self._pump(source, file.fileno(), step)
        finally:
            os.close(source)

    def _pump(self, source: int, target: int, step: Step) -> str:
        """Copies between two descriptors; hashes each block while it is written."""
        found, buffers = hashlib.sha256(), (bytearray(BLOCK), bytearray(BLOCK))
        hashing: Future[None] | None = None
        turn = 0
        with ThreadPoolExecutor(1, thread_name_prefix="hash") as pool:
            while count := self._read(source, buffers[turn]):
                if hashing:
                    hashing.result()  # its buffer is the next to be filled
                block = memoryview(buffers[turn])[:count]
                hashing = pool.submit(found.update, block)
                _write(target, block)
                step(count)
                turn = 1 - turn
        return found.hexdigest()

    def _read(self, source: int, buffer: bytearray) -> int:
        try:
            return os.readv(source, [buffer])
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> WeightsError:
        return WeightsError(
            f"{self.path} cannot be read: {error.strerror or error}; look at its permissions and "
            "at the disk it is on"
        )


def _is_blob(path: Path) -> bool:
    """Whether `path` is a file's content in a cache as huggingface_hub keeps it."""
    home = path.parent.parent
    return (
        _BLOB.fullmatch(path.name) is not None
        and path.parent.name == "blobs"
        and (home / "snapshots").is_dir()
    )


def _names(root: Path, depth: int) -> Iterator[str]:
    with os.scandir(root) as items:
        for item in items:
            if not item.is_dir(follow_symlinks=False):
                yield item.name
            elif depth and not item.name.startswith("."):
                yield from (f"{item.name}/{name}" for name in _names(Path(item.path), depth - 1))


def _version(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _record(path: Path, folder: Path, digest: str) -> FileRecord:
    facts = path.stat()
    return FileRecord(
        path=path.relative_to(folder).as_posix(),
        bytes=facts.st_size,
        sha256=digest,
        mtime_ns=facts.st_mtime_ns,
    )


def _may_link(facts: os.stat_result, folder: Path) -> bool:
    return (
        facts.st_uid == os.geteuid()
        and not facts.st_mode & stat.S_IWOTH
        and (not facts.st_mode & stat.S_IWGRP or _is_private(facts.st_gid))
        and facts.st_dev == folder.stat().st_dev
    )


def _is_private(group: int) -> bool:
    """Whether it is the group that many systems make for each user, and has nobody else in it."""
    try:
        found, me = grp.getgrgid(group), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return found.gr_name == me.pw_name and group == me.pw_uid and not {*found.gr_mem} - {me.pw_name}


def _clones(source: Path, folder: Path) -> bool:
    """Whether `source` can be reflinked into `folder`."""
    with tempfile.TemporaryDirectory(dir=folder) as spare:
        return _clone(source, Path(spare, "clone"))


def _clone(source: Path, target: Path) -> bool:
    """Makes `target` a reflink; whether that could be."""
    try:
        inside = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False  # the copy says why
    try:
        with target.open("xb", buffering=0) as file:
            fcntl.ioctl(file.fileno(), _FICLONE, inside)
    except OSError:
        target.unlink(missing_ok=True)
        return False
    finally:
        os.close(inside)
    return True


def _write(target: int, block: memoryview) -> None:
    while block:
        block = block[os.write(target, block) :]
