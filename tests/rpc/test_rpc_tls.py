"""gRPC over TLS, from the options that HTTP takes; the certificate's key is public."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest
from rpc_calls import serving
from rpc_clients import address_of, connected
from running import HANG_S, Running, StartServer

from open_llm_server.errors import StartError
from open_llm_server.rpc.server import Tls
from open_llm_server.rpc.servicer import SERVICE
from open_llm_server.serving import start

FOLDER = Path(__file__).parents[1] / "integration" / "tls"
CERT, KEY, LOCKED_KEY = (str(FOLDER / name) for name in ("cert.pem", "key.pem", "key-locked.pem"))
TRUSTED = Path(CERT).read_bytes()


def refused(running: Running, credentials: grpc.ChannelCredentials | None = None) -> None:
    with connected(running, credentials) as client:
        error = client.error("Chat", timeout=2)
        assert error.code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        )


def handshake(running: Running, ciphers: str) -> str | None:
    older = ssl.create_default_context(cafile=CERT)
    older.set_alpn_protocols(["h2"])
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    older.set_ciphers(ciphers)
    host, _, port = address_of(running).rpartition(":")
    with (
        socket.create_connection((host, int(port)), HANG_S) as plain,
        older.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        return secured.version()


@pytest.mark.server
def test_a_locked_key_and_modern_tls_only(server: StartServer) -> None:
    tls = {"tls_cert": CERT, "tls_key": LOCKED_KEY, "tls_key_password": "secret"}
    running = server("fake", grpc_port=0, **tls)
    assert (running.server.grpc_url or "").startswith("grpcs://")
    with connected(running, grpc.ssl_channel_credentials(TRUSTED)) as client:
        assert client.call("Chat").message
    refused(running)
    refused(running, grpc.ssl_channel_credentials())
    assert handshake(running, "DEFAULT") == "TLSv1.2"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(running, "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")  # what TLS 1.0 had
    for process in running.workers("api"):
        assert "secret" not in " ".join(process.cmdline())


@pytest.mark.server
def test_callers_must_bring_a_certificate_when_asked_to(server: StartServer) -> None:
    running = server("fake", grpc=True, port=0, tls_cert=CERT, tls_key=KEY, tls_ca=CERT)
    refused(running, grpc.ssl_channel_credentials(TRUSTED))
    known = grpc.ssl_channel_credentials(TRUSTED, Path(KEY).read_bytes(), TRUSTED)
    with connected(running, known) as client:
        assert client.call("Chat").message


@pytest.mark.parametrize(
    ("cert", "key", "password"), [(KEY, KEY, None), (CERT, CERT, None), (CERT, LOCKED_KEY, "no")]
)
def test_files_that_do_not_work_are_refused_at_start(
    cert: str, key: str, password: str | None
) -> None:
    with pytest.raises(StartError, match="--tls-key"):
        start("fake", port=0, grpc_port=0, tls_cert=cert, tls_key=key, tls_key_password=password)


def test_a_wrong_password_names_the_way_out() -> None:
    with pytest.raises(StartError, match="OPEN_LLM_TLS_KEY_PASSWORD"):
        Tls.read(cert=CERT, key=LOCKED_KEY, password="no", ca=None)


async def test_a_password_that_is_not_needed_is_no_error() -> None:
    """Nor is it over HTTP."""
    tls = Tls.read(cert=CERT, key=KEY, password="any", ca=None)
    async with serving(tls=tls) as wire:
        options = [("grpc.ssl_target_name_override", "localhost")]
        trusting = grpc.ssl_channel_credentials(TRUSTED)
        address = f"127.0.0.1:{wire.port}"
        async with grpc.aio.secure_channel(address, trusting, options=options) as channel:
            listed: Any = channel.unary_unary(f"/{SERVICE}/ListModels")
            assert b"echo" in await listed(b"", timeout=HANG_S)
