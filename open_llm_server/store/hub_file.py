"""One file of a hub: fetched in as many tries as it takes, and proven by its hash.

Owns what `a part` is: the bytes so far of one file, named by what the file is to be, so that it is
never gone on with as another. Knows nothing of models, other files or threads.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DamagedDownload
from . import hub_http
from .hub_http import Patience, Transient
from .manifest import FileRecord

if TYPE_CHECKING:
    import httpx2

BUFFER = 1024**2
LARGEST_REQUEST = 16 * 1024**3
"""Bytes asked for at once; hubs' other hosts do not give more than 50 GB in one answer."""
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")


@dataclass(frozen=True)
class RemoteFile:
    """One file of a hub's listing."""

    path: str
    bytes: int
    sha256: str | None
    """Of large files, which the hub keeps outside of git."""
    git_sha1: str | None
    """Of all others: the hash of git's blob."""

    @property
    def known(self) -> bool:
        """Whether a hash tells it from all others; without one, what an earlier try left may be of
        another commit."""
        return self.sha256 is not None or self.git_sha1 is not None

    @property
    def part(self) -> str:
        """The name of the part."""
        text = "\0".join([self.path, str(self.bytes), self.sha256 or "", self.git_sha1 or ""])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class Wrong(Exception):
    """What came is not what was listed; it was thrown away."""


def is_right(path: Path, file: RemoteFile) -> bool:
    """Whether what lies at `path` is what the hub lists. Raises OSError."""
    hashes, length = _Hashes(file), 0
    with path.open("rb") as content:
        while piece := content.read(BUFFER):
            hashes.update(piece)
            length += len(piece)
    try:
        hashes.check(length)
    except Wrong:
        return False
    return True


@dataclass
class Download:
    """The way of one file from `url` to `target`, by way of `part`."""

    file: RemoteFile
    url: str
    part: Path
    target: Path
    patience: Patience
    count: Callable[[int], None]
    """Told how many bytes more are there; fewer, where they have to be fetched again."""
    again: Callable[[], object] = lambda: None
    """Called when the hub is asked for the same once more."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    _have: int = 0

    def run(self) -> FileRecord:
        """Raises DamagedDownload if wrong bytes came twice; Transient if none came for too long,
        Refused, Offline, Cancelled or OSError, which leave the part as it is."""
        try:
            hashes = self._fetch()
        except Wrong:
            hashes = self._fetch_again()
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.part.replace(self.target)
        return FileRecord(
            path=self.file.path,
            bytes=self.file.bytes,
            sha256=hashes.sha256.hexdigest(),
            mtime_ns=self.target.stat().st_mtime_ns,
            checked="hub" if self.file.known else "none",
        )

    def _fetch_again(self) -> _Hashes:
        try:
            return self._fetch()
        except Wrong as error:
            raise DamagedDownload(
                f"{self.file.path} from {hub_http.host(self.url)} is not the file that the hub "
                f"lists: {error}. So it was twice: the hub, or something on the way, has a damaged "
                "copy. Try again later, or import another revision"
            ) from error

    def _fetch(self) -> _Hashes:
        """The whole part's hashes, which are right."""
        hashes = _Hashes(self.file)
        # Without a buffer: what is left in one when this thread is given up could reach the part
        # after another try has gone on with it.
        with self.part.open("a+b", buffering=0) as part:
            part.seek(0)
            while piece := part.read(BUFFER):
                self._go_on()
                hashes.update(piece)
            self._have = part.tell()
            try:
                while self._have < self.file.bytes:
                    hub_http.insist(
                        lambda: self._request(part, hashes),
                        self.patience,
                        done=lambda: self._have,
                        again=self.again,
                        cancelled=self.cancelled,
                    )
                hashes.check(self._have)
            except Wrong:
                # Not emptied: a whole part may share its data with the person's own files.
                self.part.unlink()
                self.count(-self._have)
                raise
        return hashes

    def _request(self, part: FileIO, hashes: _Hashes) -> None:
        """Adds to the part what one request brings."""
        self._go_on()
        whole, start = self.file.bytes, self._have
        if start >= whole:  # the last request failed behind the last byte
            return
        stop = start + LARGEST_REQUEST if whole - start > LARGEST_REQUEST else None
        with hub_http.get(self.url, self.patience, start=start, stop=stop) as response:
            if start and response.status_code == 200:  # it knows no ranges
                self._empty(part, hashes)
            self._check_header(response)
            for piece in hub_http.pieces(response, self.patience):
                self._go_on()
                self._add(piece, part, hashes)
        if self._have <= start:
            raise Transient(f"{hub_http.host(self.url)} sent nothing more")

    def _check_header(self, response: httpx2.Response) -> None:
        """Raises Wrong where the answer is about other bytes than those asked for."""
        whole = self.file.bytes
        if response.status_code == 416:
            raise Wrong(f"it has no more than {self._have} of {whole} bytes")
        length = response.headers.get("Content-Length", "")
        if response.status_code == 206:
            span = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if not span or int(span[1]) != self._have or span[2] not in ("*", str(whole)):
                raise Wrong("it sent another part of it than was asked for")
        elif length.isdecimal() and length.lstrip("0") != str(whole).lstrip("0"):
            raise Wrong(f"it has {length} bytes, not {whole}")

    def _add(self, piece: bytes, part: FileIO, hashes: _Hashes) -> None:
        if self._have + len(piece) > self.file.bytes:
            raise Wrong(f"it has more than {self.file.bytes} bytes")
        rest = memoryview(piece)
        while rest:
            rest = rest[part.write(rest) :]
        hashes.update(piece)
        self._have += len(piece)
        self.count(len(piece))

    def _empty(self, part: FileIO, hashes: _Hashes) -> None:
        part.truncate(0)
        hashes.reset()
        self.count(-self._have)
        self._have = 0

    def _go_on(self) -> None:
        if self.cancelled.is_set():
            raise hub_http.Cancelled


class _Hashes:
    """What the hub said of a file's bytes, and what they say themselves."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self.reset()

    def reset(self) -> None:
        self.sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % self._file.bytes, usedforsecurity=False)
        self._by_git = self._file.sha256 is None and self._file.git_sha1 is not None

    def update(self, piece: bytes) -> None:
        self.sha256.update(piece)
        if self._by_git:
            self._git.update(piece)

    def check(self, length: int) -> None:
        """Raises Wrong, with both hashes."""
        if length != self._file.bytes:
            raise Wrong(f"it has {length} bytes, not {self._file.bytes}")
        found, wanted = self.sha256.hexdigest(), self._file.sha256
        if self._by_git:
            found, wanted = self._git.hexdigest(), self._file.git_sha1
        if wanted is not None and found != wanted:
            kind = "git blob" if self._by_git else "sha256"
            raise Wrong(f"its {kind} hash is {found}, not {wanted}")
