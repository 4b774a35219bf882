"""The ports that the server would listen at: free or taken, and by whom.

Takes each as `start` would, for a moment. Who has one is read from /proc; `inodes` and
`shown_command` are pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from socket import socket

from .config.schema import ServerConfig
from .doctor_finding import Case, Finding
from .errors import StartError
from .supervisor_sockets import hold_tcp, listen_tcp

_LISTENING = "0A"
_WORDS = 4


def check(case: Case) -> list[Finding]:
    return ports(case.resolved.server) if case.resolved else []


def ports(server: ServerConfig) -> list[Finding]:
    """The same doors as `supervisor_doors.Doors` opens, each by itself."""
    flags = ("--probe-port", "--port") if server.grpc else ("--port", "--grpc-port")
    host, http, grpc = server.host, server.http_at, server.grpc_at
    found = []
    if grpc is not None:
        found.append(_judge("gRPC", host, grpc, lambda: hold_tcp(host, grpc, flag=flags[1])))
    what = "HTTP (probes)" if server.grpc else "HTTP"
    found.append(_judge(what, host, http, lambda: listen_tcp(host, http, flag=flags[0])))
    return found


def inodes(table: str, port: int) -> set[str]:
    """The sockets that listen at `port`, in a table such as /proc/net/tcp."""
    found = set()
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 9 and words[3] == _LISTENING:
            _, _, number = words[1].rpartition(":")
            if int(number, 16) == port:
                found.add(words[9])
    return found


def shown_command(arguments: Sequence[str]) -> str:
    """The beginning of a command line, for telling programs apart: no option's value is in it."""
    words = []
    for word in arguments[:_WORDS]:
        if "=" in word or (word.startswith("-") and word != "-m"):
            break
        words.append(Path(word).name or word)
    return " ".join(words)


def _judge(subject: str, host: str, port: int, take: Callable[[], socket]) -> Finding:
    says = f"port {port} of {host} is free" if port else f"takes a free port of {host}"
    try:
        with take():
            return Finding("ok", subject, says)
    except StartError as error:
        finding = Finding.of(subject, error)
    holder = _holder(port) if port else ""
    return replace(finding, says=f"{finding.says}: {holder}") if holder else finding


def _holder(port: int, proc: Path = Path("/proc")) -> str:
    """Who listens at `port`, if that is to be seen: others' processes show it to root only."""
    wanted: set[str] = set()
    for name in ("tcp", "tcp6"):
        with suppress(OSError, ValueError):
            wanted |= inodes((proc / "net" / name).read_text(encoding="ascii"), port)
    if not wanted:
        return ""
    targets = {f"socket:[{inode}]" for inode in wanted}
    pids = sorted(int(path.name) for path in proc.iterdir() if path.name.isdigit())
    for pid in pids:
        if targets & _open_files(proc / str(pid) / "fd"):
            return f"{_command(proc / str(pid))} (process {pid})"
    return ""


def _open_files(folder: Path) -> set[str]:
    found = set()
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                found.add(str(path.readlink()))
    return found


def _command(process: Path) -> str:
    with suppress(OSError):
        line = (process / "cmdline").read_bytes().decode("utf-8", "replace")
        if shown := shown_command(line.split("\0")):
            return shown
    return "a program"
