"""The ports that the server would listen at: free or taken, and by whom.

Takes each as `start` would, for a moment. Who has one is read from /proc; `inodes` and
`shown_command` are pure.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from socket import socket

from .config.schema import ServerConfig
from .doctor_finding import Case, Finding, left_out
from .errors import StartError
from .supervisor_sockets import hold_tcp, listen_tcp, resolve_address

Address = IPv4Address | IPv6Address

_LISTENING = "0A"
_WORDS = 4


def check(case: Case) -> list[Finding]:
    return ports(case.resolved.server) if case.resolved else [left_out("ports")]


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


def inodes(table: str, port: int, address: str) -> set[str]:
    """The sockets that listen at `port` and keep others from `address`, in a table such as
    /proc/net/tcp."""
    wanted = ip_address(address.partition("%")[0])
    found = set()
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 9 and words[3] == _LISTENING:
            place, _, number = words[1].rpartition(":")
            if int(number, 16) == port and _collide(_address(place), wanted):
                found.add(words[9])
    return found


def _address(digits: str) -> Address:
    """The kernel shows each four bytes of an address as one number of its own byte order."""
    numbers = [int(digits[start : start + 8], 16) for start in range(0, len(digits), 8)]
    address = ip_address(b"".join(number.to_bytes(4, sys.byteorder) for number in numbers))
    return getattr(address, "ipv4_mapped", None) or address


def _collide(held: Address, wanted: Address) -> bool:
    if held.version == wanted.version:
        return held == wanted or held.is_unspecified or wanted.is_unspecified
    # Who listens at all addresses of version 6 mostly has those of version 4 too.
    return held.version == 6 and held.is_unspecified


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
        cause = error.__cause__
    taken = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
    holder = _holder(host, port) if taken else ""
    return replace(finding, says=f"{finding.says}: {holder}") if holder else finding


def _holder(host: str, port: int, proc: Path = Path("/proc")) -> str:
    """Who listens at `port` of `host`, if that is to be seen: others' processes show it to root
    only. Raises OSError."""
    wanted: set[str] = set()
    _, (address, _) = resolve_address(host, port)
    for name in ("tcp", "tcp6"):
        with suppress(OSError, ValueError):
            wanted |= inodes((proc / "net" / name).read_text(encoding="ascii"), port, address)
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
