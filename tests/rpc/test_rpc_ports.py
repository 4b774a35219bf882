"""Where gRPC is spoken: ports that are free, taken, shared or said twice; and without grpc."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from rpc_clients import address_of, connected
from running import HANG_S, Running, Serve, StartServer

from open_llm_server.config.schema import ServerConfig
from open_llm_server.errors import ConfigurationError, StartError
from open_llm_server.serving import start
from open_llm_server.supervisor_doors import Doors
from open_llm_server.supervisor_sockets import hold_tcp, listen_tcp


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with listen_tcp("127.0.0.1", 0) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize(
    ("config", "flag"),
    [
        ({"grpc_port": "TAKEN"}, "--grpc-port"),
        ({"port": "TAKEN", "grpc_port": 0}, "--port"),
        ({"port": "TAKEN", "grpc": True}, "--port"),
        ({"port": 0, "grpc": True, "probe_port": "TAKEN"}, "--probe-port"),
    ],
)
def test_a_taken_port_names_its_own_flag(config: dict[str, Any], flag: str) -> None:
    with taken_port() as port:
        told: dict[str, Any] = {"port": 0, **config}
        told |= {name: port for name, value in config.items() if value == "TAKEN"}
        with pytest.raises(StartError, match=rf"port {port} of .* such as {flag} .*{flag} 0 "):
            start("fake", **told)


def test_a_port_is_held_while_nobody_listens() -> None:
    with hold_tcp("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        for take in (hold_tcp, listen_tcp):
            with pytest.raises(StartError, match="--grpc-port"):
                take("127.0.0.1", port, flag="--grpc-port")
        with socket.socket() as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                stranger.bind(("127.0.0.1", port))
    with hold_tcp("127.0.0.1", port) as again:
        assert again.getsockname()[1] == port


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"grpc": True, "grpc_port": 0}, "set one"),
        ({"probe_port": 5001}, "probe_port goes with grpc"),
        ({"port": 5000, "grpc_port": 5000}, "a port each"),
        ({"port": 5000, "grpc": True, "probe_port": 5000}, "a port each"),
        ({"grpc_port": 65_536}, "grpc.port"),
        ({"grpc_port": -1}, "grpc.port"),
    ],
)
def test_ports_that_do_not_fit_together(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        start("fake", **config)


def test_free_ports_are_told() -> None:
    with Doors.open(ServerConfig(port=0, grpc_port=0)) as doors:
        assert doors.grpc_url == f"grpc://127.0.0.1:{doors.server.grpc_at}"
        assert doors.server.grpc_at
        assert str(doors) == f"{doors.url} and {doors.grpc_url}"
        doors.close()
    with Doors.open(ServerConfig(port=0, grpc=True)) as doors:
        assert doors.grpc_url == f"grpc://127.0.0.1:{doors.server.port}"
        assert str(doors) == f"{doors.grpc_url} (probes: {doors.url})"
        doors.close()
    with Doors.open(ServerConfig(port=0)) as doors:
        assert doors.grpc_url is None
        assert str(doors) == doors.url
        doors.close()


def test_the_probes_are_beside_the_main_port() -> None:
    assert ServerConfig(grpc=True, port=5000).http_at == 5001
    assert ServerConfig(grpc=True, port=5000, probe_port=9).http_at == 9
    assert ServerConfig(grpc=True, port=65_535).http_at == 0


@pytest.mark.server
def test_two_servers_do_not_share_a_port(server: StartServer) -> None:
    first = server("fake", grpc_port=0)
    port = int(address_of(first).rpartition(":")[2])
    configs: list[dict[str, Any]] = [
        {"port": 0, "grpc_port": port},
        {"port": port, "grpc": True},
        {"port": port},
    ]
    for config in configs:
        with pytest.raises(StartError, match=f"port {port} of .* is taken"):
            start("fake", **config)
    with connected(first) as client:
        assert client.call("Chat").message


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.server
@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6(server: StartServer) -> None:
    running = server("fake", host="::1", grpc_port=0)
    assert address_of(running).startswith("[::1]:")
    with connected(running) as client:
        assert client.call("Chat").message


# -- other ways to start -----------------------------------------------------------------------


@pytest.mark.server
def test_bentoml_serve_speaks_grpc_too(bentoml_serve: Serve) -> None:
    with taken_port() as port:
        pass
    url = bentoml_serve(
        "open_llm_server.service:svc", OPEN_LLM_MODELS="fake", OPEN_LLM_GRPC_PORT=str(port)
    )
    body = {"prompt": "one two three"}
    expected = httpx.post(f"{url}/chat", json=body, timeout=HANG_S).json()["message"]
    with connected(served_at(port)) as client:
        assert client.call("Chat").message == expected


def served_at(port: int) -> Running:
    class Served:
        grpc_url = f"grpc://127.0.0.1:{port}"

    served: Any = Served()
    return Running(served)


@pytest.mark.server
def test_bentoml_serve_has_no_main_port_for_grpc() -> None:
    environment = {**os.environ, "OPEN_LLM_MODELS": "fake", "OPEN_LLM_GRPC": "true"}
    code = "import open_llm_server.service"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, timeout=HANG_S
    )
    assert run.returncode
    last = run.stderr.decode().splitlines()[-1]
    assert "BentoMLException" in last
    assert "OPEN_LLM_GRPC_PORT" in last


@pytest.mark.server
@pytest.mark.parametrize("missing", ["grpc", "grpc_health", "grpc_reflection"])
@pytest.mark.parametrize("words", [["--grpc-port", "0"], ["--grpc"]])
def test_without_grpc_one_line_says_what_to_install(missing: str, words: list[str]) -> None:
    code = (
        f"import sys\nsys.modules[{missing!r}] = None\n"
        "from open_llm_server.cli import main\nmain(sys.argv[1:])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "start", "fake", "--port", "0", *words],
        capture_output=True,
        timeout=HANG_S,
    )
    assert run.returncode == 1
    (line,) = run.stderr.decode().splitlines()
    assert line.startswith("error: gRPC needs grpcio")
    assert line.endswith("; run: pip install 'open-llm-server[grpc]'")
