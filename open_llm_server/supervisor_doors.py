"""The ports of one server, held by the supervisor for as long as it takes requests.

HTTP's socket is handed to the workers; gRPC's port is held for them, because it listens by itself.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from .config.schema import ServerConfig
from .extras import GRPC, require
from .supervisor_sockets import hold_tcp, listen_tcp, shown_address

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Every address of this machine, and one of them that a person can call."""


def check_grpc(server: ServerConfig) -> None:
    """Raises StartError where gRPC is wanted and what it needs is missing or too old."""
    if server.grpc_at is not None:
        require(GRPC, "gRPC")


class Doors:
    """Made by `open`. `server` is the configuration with the ports that were free."""

    def __init__(
        self, server: ServerConfig, http: socket.socket, grpc: socket.socket | None
    ) -> None:
        tls = "s" if server.tls_cert else ""
        self.http = http
        self._grpc = grpc
        self._probes_only = server.grpc
        self.url = f"http{tls}://{_callable(http)}"
        self.grpc_url = f"grpc{tls}://{_callable(grpc)}" if grpc else None
        name = "port" if server.grpc else "grpc_port"
        taken = {name: grpc.getsockname()[1]} if grpc else {}
        self.server = server.model_copy(update=taken)

    @classmethod
    @contextmanager
    def open(cls, server: ServerConfig) -> Iterator[Doors]:
        """Raises StartError where a port is not to be had."""
        with contextlib.ExitStack() as held:
            grpc = None
            flags = ("--probe-port", "--port") if server.grpc else ("--port", "--grpc-port")
            if server.grpc_at is not None:
                grpc = held.enter_context(hold_tcp(server.host, server.grpc_at, flag=flags[1]))
            http = held.enter_context(listen_tcp(server.host, server.http_at, flag=flags[0]))
            yield cls(server, http, grpc)

    def close(self) -> None:
        """Lets nobody in any more; gRPC's workers close theirs by themselves."""
        self.http.close()

    def __str__(self) -> str:
        if self.grpc_url is None:
            return self.url
        if self._probes_only:
            return f"{self.grpc_url} (probes: {self.url})"
        return f"{self.url} and {self.grpc_url}"


def _callable(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return shown_address(_ANY.get(host, host), port)
