"""A hub on loopback that speaks the model hub's protocol, with faults on demand.

    with FakeHub() as hub:
        hub.add("org/name", {"config.json": b"{}", "model.gguf": weights}, licence="mit")
        hub.fault("org/name", "model.gguf", Fault("reset", after=1000))

Two servers: the hub itself, and another host ("cdn") that it sends clients to for large files, as
the real one does. What they were asked is in `hub.requests`.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from hashlib import sha1
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from fake_hub_server import HubServer

Kind = Literal[
    "status",
    "redirect",
    "reset",
    "close",
    "stall",
    "flip",
    "short",
    "long",
    "drip",
    "whole",
    "mute",
    "babble",
]


@dataclass
class Fault:
    """What goes wrong, for `times` requests (`None`: for all).

    `status`: that answer, with `headers`. `redirect`: to `to`. After `after` bytes of a body:
    `reset` breaks off, and the client loses what it has not read yet; `close` breaks off in order;
    `stall` falls silent; `flip` sends one wrong byte. `short` and `long` have a body of another
    length and say so. `drip` sends `rate` bytes a second. `whole` ignores Range.
    `mute` never answers; `babble` answers with a head that never ends.
    """

    kind: Kind
    times: int | None = 1
    after: int = 0
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    to: str = ""
    rate: int = 64 * 1024


@dataclass(frozen=True)
class Seen:
    """One request."""

    server: str
    """`hub` or `cdn`."""
    method: str
    path: str
    headers: Mapping[str, str]
    """With names in lower case."""


@dataclass(frozen=True)
class Snapshot:
    """One commit of a model."""

    commit: str
    files: Mapping[str, bytes]
    card: Mapping[str, Any]

    def git_sha1(self, path: str) -> str:
        return git_sha1(self.files[path])


@dataclass
class Repo:
    commits: dict[str, Snapshot] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False


def git_sha1(content: bytes) -> str:
    """How git names a file's content."""
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


class FakeHub:
    """`tls` is a certificate's and its key's file; without it, plain HTTP."""

    def __init__(self, tls: tuple[str, str] | None = None) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Seen] = []
        self.sent = 0
        """Bytes of files that left."""
        self.tokens: set[str] = set()
        """Those that open gated models."""
        self.hashes = True
        """Whether listings have them."""
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._faults: dict[tuple[str, str, str], list[Fault]] = {}
        self._servers = [HubServer(self, name, tls) for name in ("hub", "cdn")]
        self.url, self.cdn = (server.url for server in self._servers)

    def __enter__(self) -> FakeHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        if library := sys.modules.get("huggingface_hub"):
            library.close_session()  # it would keep its connections

    def add(
        self,
        id: str,
        files: Mapping[str, bytes],
        *,
        licence: str | None = None,
        branch: str = "main",
        gated: bool = False,
    ) -> str:
        """Makes a commit of exactly these files, as the newest of `branch`; returns its name.
        Nothing checks the files' names: hostile ones are listed as they are."""
        repo = self.repos.setdefault(id, Repo())
        repo.gated = gated
        names = [f"{name}\0{git_sha1(content)}" for name, content in sorted(files.items())]
        commit = sha1("\n".join([id, *names]).encode("utf-8", "surrogatepass")).hexdigest()
        card = {"license": licence} if licence else {}
        repo.commits[commit] = Snapshot(commit, dict(files), card)
        repo.refs[branch] = commit
        return commit

    def fault(self, id: str, path: str, *faults: Fault, at: str = "bytes") -> None:
        """Faults for a file, one after the other. `at`: where its `bytes` leave, or the hub's
        `resolve` of its name; `describe` for the model's listing and `refs` for its branches, with
        `path` empty."""
        self._faults.setdefault((id, path, at), []).extend(faults)

    def asked(self, path: str = "", server: str = "hub") -> Counter[str]:
        """How often each method was used on paths that contain `path`."""
        return Counter(r.method for r in self.requests if r.server == server and path in r.path)

    def environment(self, home: Path) -> dict[str, str]:
        """For a process that is to use this hub; `home` takes the place of the person's own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def use(self, monkeypatch: Any, home: Path) -> None:
        """The same for this process, whose library may have read its environment long ago."""
        from huggingface_hub import constants

        for name, value in self.environment(home).items():
            monkeypatch.setenv(name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        names = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + names)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))

    def note(self, server: str, method: str, path: str, headers: Message) -> None:
        """A request came in."""
        lower = {name.lower(): value for name, value in headers.items()}
        with self.lock:
            self.requests.append(Seen(server, method, path, lower))

    def next_fault(self, id: str, path: str, at: str) -> Fault | None:
        with self.lock:
            waiting = self._faults.get((id, path, at), [])
            if not waiting:
                return None
            fault = waiting[0]
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    waiting.pop(0)
            return fault
