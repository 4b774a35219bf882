"""Which ports a container publishes, and what the server inside is told of them."""

from __future__ import annotations

from typing import Any

import pytest

from open_llm_server.api.hosts import HostGuard
from open_llm_server.config.schema import ServerConfig
from open_llm_server.container import Publish
from open_llm_server.container_doors import doors
from open_llm_server.errors import HostNotAllowed, StartError

LOCAL = "127.0.0.1"


@pytest.mark.parametrize(
    ("settings", "publish", "words", "shown"),
    [
        ({}, [(5000, 5000)], ["--port=5000"], "http://127.0.0.1:5000"),
        ({"port": 80}, [(80, 5000)], ["--port=5000"], "http://127.0.0.1:80"),
        (
            {"port": 5000, "grpc_port": 443},
            [(5000, 5000), (443, 5001)],
            ["--port=5000", "--grpc-port=5001"],
            "http://127.0.0.1:5000 and grpc://127.0.0.1:443",
        ),
        (
            {"port": 7000, "grpc": True},
            [(7000, 7000), (7001, 7001)],
            ["--port=7000", "--probe-port=7001"],
            "grpc://127.0.0.1:7000 (probes: http://127.0.0.1:7001)",
        ),
        (
            {"port": 443, "grpc": True, "probe_port": 5000},
            [(443, 5001), (5000, 5000)],
            ["--port=5001", "--probe-port=5000"],
            "grpc://127.0.0.1:443 (probes: http://127.0.0.1:5000)",
        ),
        (
            {"tls_cert": "/c", "tls_key": "/k"},
            [(5000, 5000)],
            ["--port=5000"],
            "https://127.0.0.1:5000",
        ),
    ],
)
def test_ports(
    settings: dict[str, Any], publish: list[tuple[int, int]], words: list[str], shown: str
) -> None:
    got = doors(ServerConfig(**settings))
    assert got.publish == tuple(Publish(LOCAL, *ports) for ports in publish)
    assert got.words == (*words, "--allowed-hosts=127.0.0.1")
    assert got.shown == shown


@pytest.mark.parametrize(
    "settings",
    [
        {"port": 0},
        {"port": 0, "grpc_port": 0},
        {"port": 0, "grpc": True},
        {"port": 0, "grpc": True, "probe_port": 0},
        {"port": 65535, "grpc": True},
    ],
)
def test_free_ports(settings: dict[str, Any]) -> None:
    publish = doors(ServerConfig(**settings)).publish
    assert all(port.outside == port.inside > 0 for port in publish)
    assert len({port.outside for port in publish}) == len(publish)


@pytest.mark.parametrize(
    ("host", "address", "shown"),
    [
        ("localhost", LOCAL, "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2", "127.0.0.2"),
        ("0.0.0.0", "0.0.0.0", "127.0.0.1"),
        ("::", "::", "[::1]"),
        ("[::1]", "::1", "[::1]"),
    ],
)
def test_addresses(host: str, address: str, shown: str) -> None:
    got = doors(ServerConfig(host=host, insecure=True))
    assert got.publish == (Publish(address, 5000, 5000),)
    assert got.shown == f"http://{shown}:5000"


def test_an_address_that_is_none() -> None:
    with pytest.raises(StartError, match=r"no address x\.invalid; choose another with --host"):
        doors(ServerConfig(host="x.invalid", insecure=True))


@pytest.mark.parametrize("has_keys", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "10.1.2.3"])
@pytest.mark.parametrize("allowed", [(), ("models.example",), ("*",)])
@pytest.mark.parametrize(
    "called",
    ["127.0.0.1:5000", "localhost:5000", "10.1.2.3:5000", "models.example", "evil.example"],
)
def test_names_are_answered_as_without_a_container(
    host: str, allowed: tuple[str, ...], called: str, has_keys: bool
) -> None:
    keys = ("secret",) if has_keys else ()
    server = ServerConfig(host=host, insecure=True, allowed_hosts=allowed, api_key=keys)
    told = [word.partition("=")[2] for word in doors(server).words if "allowed" in word]
    inside = answers("0.0.0.0", told, called, has_keys=has_keys)
    assert inside == answers(host, allowed, called, has_keys=has_keys)


@pytest.mark.parametrize("keys", [(), ("secret",)])
def test_a_server_with_a_key_does_not_start_without_one(keys: tuple[str, ...]) -> None:
    words = doors(ServerConfig(host="0.0.0.0", insecure=True, api_key=keys)).words
    assert ("--no-insecure" in words) is bool(keys)


def answers(bound: str, allowed: Any, called: str, *, has_keys: bool) -> bool:
    guard = HostGuard(bound, allowed_hosts=allowed, allowed_origins=(), has_keys=has_keys)
    try:
        guard.check([called], [], site="", safe=True)
    except HostNotAllowed:
        return False
    return True
