"""TLS: certificates are checked unless somebody says otherwise, and stalls end in time."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_servers import (
    STREAM,
    WAYS,
    Peer,
    ask,
    chunked,
    events,
    http,
    streamed,
    talking_to,
)
from open_llm_client import ConnectionFailed, OpenLLMError, TimedOut, create
from running import HANG_S

import open_llm_server
from open_llm_server.serving import Server

FOLDER = Path(__file__).parents[1] / "integration" / "tls"
CERT, KEY = FOLDER / "cert.pem", FOLDER / "key.pem"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with open_llm_server.start(
        "fake", port=0, grpc_port=0, wait_s=HANG_S, tls_cert=str(CERT), tls_key=str(KEY)
    ) as started:
        yield started


@pytest.mark.server
@pytest.mark.parametrize("way", WAYS)
def test_a_server_with_tls(server: Server, way: str) -> None:
    assert server.grpc_url
    http_url = server.url.replace("http://", "https://")
    grpc_url = server.grpc_url.replace("grpc://", "grpcs://")
    for url in (http_url, grpc_url):
        with create(url, verify=CERT) as client:
            assert ask(way, client, "chat").message
            assert streamed(way, client, "chat")[1].message
        with create(url, retries=3) as client:
            with pytest.raises(ConnectionFailed, match=r"verify='ca\.pem'") as raised:
                ask(way, client, "chat")
            assert not raised.value.may_repeat
    with create(http_url, verify=False) as client:
        assert ask(way, client, "chat").message
    for url in (server.url.replace("https", "http"), server.grpc_url.replace("grpcs", "grpc")):
        with create(url, retries=0) as client, pytest.raises(OpenLLMError):
            ask(way, client, "chat")


def secured(peer: Peer, data: bytes) -> None:
    """Answers over TLS, then stays silent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERT, KEY)
    with context.wrap_socket(peer._sock.dup(), server_side=True) as sock:
        sock.recv(65536)
        sock.sendall(data)
        while sock.recv(65536):
            pass


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", ["handshake", "answer"])
def test_a_stall_within_tls(way: str, stage: str) -> None:
    def behave(peer: Peer) -> None:
        if stage == "handshake":
            peer.wait_for_end()
        else:
            secured(peer, chunked(events(STREAM[0], done=False), end=False))

    with talking_to(behave) as (hostile, _):
        with create(hostile.url.replace("http", "https"), verify=CERT, retries=0) as client:
            with pytest.raises(TimedOut):
                streamed(way, client, "chat", timeout=0.4)


@pytest.mark.parametrize("way", WAYS)
def test_a_server_without_tls(way: str) -> None:
    with talking_to(lambda peer: peer.send(http(b"", status=400))) as (hostile, _):
        with create(hostile.url.replace("http", "https"), retries=0) as client:
            with pytest.raises(ConnectionFailed, match="is https:// right"):
                ask(way, client, "chat", timeout=20)


def test_many_calls_over_one_secure_connection(server: Server) -> None:
    with create(server.url.replace("http://", "https://"), verify=CERT) as client:
        assert len({client.chat("Hello", temperature=0).message for _ in range(5)}) == 1
        asyncio.run(client.async_chat("Hello"))
