"""The grpc.aio server of one API worker: its address, limits, TLS, and its end.

Shares the desk, and with it models, keys, limits and metrics, with the routes over HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from ..api.desk import Desk
from ..errors import StartError
from . import v1
from .admission import Admission
from .health import Health
from .servicer import SERVICE, handlers

MOST_CALLS = 4096
"""Calls at once; a model's own queue is full long before."""
MOST_STREAMS = 1024
"""Calls at once on one connection."""
LARGEST_METADATA = 16 * 1024
LARGEST_NUMBER = 2**31 - 1
"""Of gRPC's own options."""
PING_EVERY_S = 30
"""A client that does not answer a ping is gone after `PING_ANSWER_S`."""
PING_ANSWER_S = 20
IDLE_S = 300
"""A connection without calls is closed then; clients open another when they need one."""
LEAST_PING_S = 10
"""Clients that ping more often than this, without calls, are hung up on."""
LONGEST_ANSWER = 512 * 1024**2
"""Bytes: 2048 vectors of 8192 numbers are 64 MiB."""
STOP_GRACE_S = 1.0
"""Past the drain limit, for the answers that are cut to say so."""

_REFLECTION = reflection.SERVICE_NAME


@dataclass(frozen=True, kw_only=True)
class Tls:
    """PEM bytes. With `client_ca`, callers must show a certificate that it signed."""

    key: bytes
    chain: bytes
    client_ca: bytes | None = None

    @classmethod
    def read(cls, *, cert: str, key: str, password: str | None, ca: str | None) -> Tls:
        """From files. Raises StartError for a key that needs a password, and has the wrong one."""
        content = Path(key).read_bytes()
        if password is not None:
            content = _without_password(content, password)
        client_ca = Path(ca).read_bytes() if ca else None
        return cls(key=content, chain=Path(cert).read_bytes(), client_ca=client_ca)


class RpcServer:
    """Listens from `start` to `stop`."""

    def __init__(self, desk: Desk, address: str, tls: Tls | None) -> None:
        """`address`: HOST:PORT, the host numeric."""
        self._desk = desk
        self._address = address
        self._tls = tls
        self._admission = Admission(desk)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Raises StartError where it cannot listen."""
        server = grpc.aio.server(
            interceptors=[self._admission],
            options=_options(self._desk.settings.body_limit),
            maximum_concurrent_rpcs=MOST_CALLS,
        )
        server.add_generic_rpc_handlers((handlers(self._desk),))
        server.add_generic_rpc_handlers((Health(self._desk).handlers(),))
        _reflect(server)
        try:
            if self._tls:
                server.add_secure_port(self._address, _credentials(self._tls))
            else:
                server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise StartError(
                f"gRPC cannot listen at {self._address}; choose another port with --grpc-port"
            ) from error
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Lets the open calls end within the drain limit; new ones hear of the drain meanwhile.

        grpc itself would hang up on them.
        """
        server, self._server = self._server, None
        if server:
            self._desk.drain.begin()
            await self._admission.quiet(self._desk.settings.drain_timeout_s + STOP_GRACE_S)
            # Who watches health stays for ever, and is not waited for.
            await server.stop(STOP_GRACE_S)


def _options(body_limit: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", min(body_limit, LARGEST_NUMBER)),
        ("grpc.max_send_message_length", LONGEST_ANSWER),
        ("grpc.max_metadata_size", LARGEST_METADATA),
        ("grpc.max_concurrent_streams", MOST_STREAMS),
        ("grpc.keepalive_time_ms", PING_EVERY_S * 1000),
        ("grpc.keepalive_timeout_ms", PING_ANSWER_S * 1000),
        ("grpc.http2.min_ping_interval_without_data_ms", LEAST_PING_S * 1000),
        ("grpc.max_connection_idle_ms", IDLE_S * 1000),
        # The supervisor holds the port for all of its workers, also while one is replaced.
        ("grpc.so_reuseport", 1),
        # A small message that unpacks to a huge one is not unpacked; only "identity" is taken.
        ("grpc.compression_enabled_algorithms_bitset", 1),
    ]


def _reflect(server: grpc.aio.Server) -> None:
    pool = v1.POOL
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, _REFLECTION)
    reflection.enable_server_reflection(names, server, pool=pool)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.key, tls.chain)],
        root_certificates=tls.client_ca,
        require_client_auth=tls.client_ca is not None,
    )


def _without_password(key: bytes, password: str) -> bytes:
    from cryptography.hazmat.primitives import serialization

    try:
        loaded = serialization.load_pem_private_key(key, password.encode())
    except TypeError:
        # It needs none: over HTTP, that is no error either.
        return key
    except ValueError as error:
        raise StartError(
            f"the TLS key cannot be opened with its password: {error}; give the right one with "
            "OPEN_LLM_TLS_KEY_PASSWORD"
        ) from error
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
