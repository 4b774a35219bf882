"""Whom a client cannot reach: names nobody has, other schemes, proxies that are none."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hostile_servers import WAYS, ask
from open_llm_client import BadAnswer, ConnectionFailed, ConnectionLost, OpenLLMError, create
from running import HANG_S
from test_client_tls import CERT, KEY

import open_llm_server
from open_llm_server.serving import Server

pytestmark = pytest.mark.parametrize("way", WAYS)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "no_proxy", "no_grpc_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[bool, Server]]:
    """By whether it has TLS."""
    with (
        open_llm_server.start("fake", port=0, grpc_port=0, wait_s=HANG_S) as plain,
        open_llm_server.start(
            "fake", port=0, grpc_port=0, wait_s=HANG_S, tls_cert=str(CERT), tls_key=str(KEY)
        ) as secure,
    ):
        yield {False: plain, True: secure}


def failed(way: str, url: str, **options: Any) -> OpenLLMError:
    with create(url, retries=0, **options) as client:
        with pytest.raises(OpenLLMError) as raised:
            ask(way, client, "chat", timeout=HANG_S)
    return raised.value


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_host_that_nobody_has(way: str, scheme: str) -> None:
    error = failed(way, f"{scheme}://nosuch.invalid:5000")
    assert type(error) is ConnectionFailed and not error.may_repeat
    assert "cannot reach" in str(error)


@pytest.mark.server
@pytest.mark.parametrize(
    ("scheme", "door", "secure", "kind"),
    [
        ("http", "http", True, ConnectionLost),
        ("http", "grpc", True, ConnectionLost),
        ("http", "grpc", False, BadAnswer),
        ("https", "http", False, ConnectionFailed),
        ("https", "grpc", False, ConnectionFailed),
        ("https", "grpc", True, ConnectionLost),
        ("grpc", "http", False, ConnectionFailed),
        ("grpc", "http", True, ConnectionFailed),
        ("grpc", "grpc", True, ConnectionFailed),
        ("grpcs", "http", False, ConnectionFailed),
        ("grpcs", "http", True, ConnectionFailed),
        ("grpcs", "grpc", False, ConnectionFailed),
    ],
)
def test_another_scheme(
    servers: dict[bool, Server],
    way: str,
    scheme: str,
    door: str,
    secure: bool,
    kind: type[OpenLLMError],
) -> None:
    server = servers[secure]
    url = server.url if door == "http" else server.grpc_url
    assert url
    verify: Any = CERT if scheme.endswith("s") else True
    error = failed(way, f"{scheme}://{url.partition('://')[2]}", verify=verify)
    assert type(error) is kind and not error.may_repeat
    assert f"is {scheme}:// right" in str(error)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("http_proxy", "ftp://x"),
        ("http_proxy", "::::"),
        ("HTTP_PROXY", "http://"),
        ("http_proxy", "http://secret@host:99999"),
        ("ALL_PROXY", "http://x:y"),
    ],
)
def test_a_proxy_that_is_none(
    way: str, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    error = failed(way, "http://model.invalid")
    assert type(error) is ConnectionFailed and not error.may_repeat
    assert variable in str(error) and "secret" not in str(error)


def test_a_proxy_that_needs_a_package(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setattr("open_llm_client._http_setup.find_spec", lambda name: None)
    error = failed(way, "http://model.invalid")
    assert type(error) is ConnectionFailed and "ALL_PROXY" in str(error)
    assert "pip install socksio" in str(error)


@pytest.mark.parametrize(
    ("scheme", "variable"),
    [("http", "http_proxy"), ("https", "HTTPS_PROXY"), ("grpc", "http_proxy")],
)
def test_a_proxy_that_nobody_runs(
    way: str, scheme: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setenv(variable, f"http://user:secret@{where}")
        error = failed(way, f"{scheme}://model.invalid:5000")
    assert type(error) is ConnectionFailed
    assert f"the proxy {where} that {variable} names" in str(error)
    assert "secret" not in str(error)


@pytest.mark.server
def test_the_ca_that_the_environment_names(
    servers: dict[bool, Server], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERT))
    for url in (servers[True].url, servers[True].grpc_url):
        assert url
        with create(url, retries=0) as client:
            assert ask(way, client, "chat").message
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    for url in (servers[True].url, servers[True].grpc_url):
        assert url
        assert "ca.pem" in str(failed(way, url))
