"""The sockets and the private folder that a running server needs before its processes start."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import StartError

BACKLOG = 2048
MAX_OPEN_FILES = 65_536
DRAINING = "draining"
"""While this file is in the runtime folder the API takes no new work."""
PROBE_URL = "probe-url"
"""This file in the runtime folder says where the server can be asked whether it is ready, and
whether it wants certificates of those who ask."""
PREFIX = "open-llm-server-"
"""How the names of runtime folders begin."""
_LONGEST_FOLDER = 80
"""A unix socket's path holds 104 bytes on some systems, 108 on Linux."""


def listen_tcp(host: str, port: int, *, flag: str = "--port") -> socket.socket:
    """Listens at `host`:`port`; port 0 takes a free one. Raises StartError with the way out,
    which names the `flag` that the port came from."""
    try:
        family, address = resolve_address(host, port)
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        raise StartError(_refusal(host, port, error, flag)) from error


def hold_tcp(host: str, port: int, *, flag: str = "--port") -> socket.socket:
    """Takes `host`:`port` without listening; otherwise as `listen_tcp`.

    gRPC listens by itself, in each worker: as long as this socket is open they may, and nobody
    else has the port while one of them is replaced.
    """
    try:
        family, address = resolve_address(host, port)
        # Shared ports can be shared with strangers too: a first look must find it free.
        with socket.socket(family, socket.SOCK_STREAM) as look:
            look.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            look.bind(address)
            look.listen()
            address = (address[0], look.getsockname()[1])
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
        return held
    except OSError as error:
        raise StartError(_refusal(host, port, error, flag)) from error


def resolve_address(host: str, port: int) -> tuple[int, tuple[str, int]]:
    """The address family, and the numeric address. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # A name with both kinds of address, such as localhost, means the older one to most callers.
    family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, (str(address[0]), int(address[1]))


def shown_address(host: str, port: int) -> str:
    """HOST:PORT, as it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen_unix(path: Path) -> socket.socket:
    """Listens at `path`, for this user only."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(os.fspath(path))
    path.chmod(0o600)
    listening.listen(BACKLOG)
    return listening


@contextlib.contextmanager
def runtime_folder() -> Iterator[Path]:
    """A new folder of mode 0700, removed at the end.

    Its lock tells cleaners of temporary folders, systemd's among them, that it is in use.
    Folders of servers that were killed are removed on the way.
    """
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) + len(PREFIX) + 8 > _LONGEST_FOLDER:
        parent = Path("/tmp")
    _remove_dead(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def raise_open_files() -> None:
    """Room for connections: each open answer holds one in the API and one to its runner."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _remove_dead(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}????????"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            held = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)


def _refusal(host: str, port: int, error: OSError, flag: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is taken by another program; "
            f"choose another port, such as {flag} {port % 65_535 + 1}, or {flag} 0 for a free one"
        )
    if error.errno == errno.EACCES:
        return f"port {port} needs rights that this user lacks; choose one above 1023 with {flag}"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"this machine has no address {host}; choose another with --host"
    return f"cannot listen at {host} port {port}: {error.strerror or error}"
