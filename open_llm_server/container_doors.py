"""The ports of a server in a container: which are published where, and what the server is told.

Owns that callers meet what `start` on the same address would be. Opens no connection.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from .config.schema import ServerConfig, is_loopback
from .container import Publish
from .errors import StartError
from .supervisor_sockets import resolve_address, shown_address

FIELDS = ("host", "insecure", "allowed_hosts", "port", "grpc_port", "probe_port")
"""Of the server's settings those that mean something else inside; `doors` says what."""
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Every address of this machine, and one of them that a person can call."""
_FIRST_PRIVILEGED = 1024
_FIRST_INSIDE = 5000


@dataclass(frozen=True)
class Doors:
    """`words` are flags for `start`, `shown` is where to call."""

    publish: tuple[Publish, ...]
    words: tuple[str, ...]
    shown: str


def doors(server: ServerConfig) -> Doors:
    """The doors of `server`. A port 0 becomes one that is free at this moment. Raises StartError
    for an address that this machine does not have."""
    server = _with_free_ports(server)
    address = _address(server.host)
    outside = {"port": server.port}
    if server.grpc:
        outside["probe_port"] = server.http_at
    elif server.grpc_port is not None:
        outside["grpc_port"] = server.grpc_port
    inside = dict(zip(outside, _inside(list(outside.values())), strict=True))
    words = [f"--{name.replace('_', '-')}={port}" for name, port in inside.items()]
    return Doors(
        tuple(Publish(address, outside[name], inside[name]) for name in outside),
        (*words, *_locks(server), *(f"--allowed-hosts={host}" for host in _hosts(server))),
        _shown(server, address),
    )


def _with_free_ports(server: ServerConfig) -> ServerConfig:
    names = [name for name in ("port", "grpc_port", "probe_port") if getattr(server, name) == 0]
    if server.grpc and server.probe_port is None and server.port == 65_535:
        names.append("probe_port")  # there is no port after it
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in names]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        free = [each.getsockname()[1] for each in sockets]
        return server.model_copy(update=dict(zip(names, free, strict=True)))


def _address(host: str) -> str:
    """Engines take numbers only."""
    try:
        return resolve_address(host.strip("[]"), 0)[1][0]
    except OSError as error:
        raise StartError(
            f"this machine has no address {host}; choose another with --host"
        ) from error


def _inside(outside: Sequence[int]) -> list[int]:
    """The same numbers, so that what the server prints is true; but for those that need rights."""
    kept = {port for port in outside if port >= _FIRST_PRIVILEGED}
    spare = (port for port in range(_FIRST_INSIDE, 65_536) if port not in kept)
    return [port if port in kept else next(spare) for port in outside]


def _locks(server: ServerConfig) -> tuple[str, ...]:
    """Images ask for no key, as their ports are nobody's until they are published. Where a key is
    set, the server inside must not start without it: a command may be run again elsewhere."""
    return ("--no-insecure",) if server.api_key else ()


def _hosts(server: ServerConfig) -> tuple[str, ...]:
    """The names to answer to. Inside, the server is bound to every address, and would answer to
    every name where nothing else is said; see `api.hosts`."""
    if is_loopback(server.host) or server.allowed_hosts:
        return tuple(dict.fromkeys((*server.allowed_hosts, server.host)))
    return ()


def _shown(server: ServerConfig, address: str) -> str:
    tls = "s" if server.tls_cert else ""
    callable_at = _ANY.get(address, address)
    http = f"http{tls}://{shown_address(callable_at, server.http_at)}"
    if server.grpc_at is None:
        return http
    grpc = f"grpc{tls}://{shown_address(callable_at, server.grpc_at)}"
    return f"{grpc} (probes: {http})" if server.grpc else f"{http} and {grpc}"
