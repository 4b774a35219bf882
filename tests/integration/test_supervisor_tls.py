"""TLS with a certificate made for these tests; its key is public and protects nothing."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import httpx
import pytest
from running import HANG_S, StartServer

from open_llm_server.errors import StartError
from open_llm_server.serving import start

pytestmark = pytest.mark.server
FOLDER = Path(__file__).with_name("tls")
CERT, KEY, LOCKED_KEY = (str(FOLDER / name) for name in ("cert.pem", "key.pem", "key-locked.pem"))


def handshake(port: int, context: ssl.SSLContext) -> str | None:
    with (
        socket.create_connection(("127.0.0.1", port), HANG_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        return secured.version()


def test_modern_tls_only(server: StartServer) -> None:
    running = server("fake", tls_cert=CERT, tls_key=LOCKED_KEY, tls_key_password="secret")
    assert running.url.startswith("https://")
    trusting = ssl.create_default_context(cafile=CERT)
    assert httpx.get(f"{running.url}/livez", verify=trusting, timeout=HANG_S).status_code == 200
    assert handshake(running.port, trusting) == "TLSv1.3"
    older = ssl.create_default_context(cafile=CERT)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(running.port, older) == "TLSv1.2"
    weak = ssl.create_default_context(cafile=CERT)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")  # what TLS 1.0 had
    with pytest.raises(ssl.SSLError):
        handshake(running.port, weak)
    with pytest.raises(httpx.HTTPError):
        httpx.get(running.url.replace("https", "http"), timeout=HANG_S)
    for process in running.workers("api"):
        assert "secret" not in " ".join(process.cmdline())


def test_callers_must_bring_a_certificate_when_asked_to(server: StartServer) -> None:
    running = server("fake", tls_cert=CERT, tls_key=KEY, tls_ca=CERT)
    stranger = ssl.create_default_context(cafile=CERT)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{running.url}/livez", verify=stranger, timeout=HANG_S)
    known = ssl.create_default_context(cafile=CERT)
    known.load_cert_chain(CERT, KEY)
    assert httpx.get(f"{running.url}/livez", verify=known, timeout=HANG_S).status_code == 200


@pytest.mark.parametrize(
    ("cert", "key", "password"), [(KEY, KEY, None), (CERT, CERT, None), (CERT, LOCKED_KEY, "no")]
)
def test_tls_files_that_do_not_work_are_refused_at_start(
    cert: str, key: str, password: str | None
) -> None:
    with pytest.raises(StartError, match="--tls-key"):
        start("fake", port=0, tls_cert=cert, tls_key=key, tls_key_password=password)
