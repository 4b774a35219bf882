from __future__ import annotations

import socket
import stat
import tempfile
from pathlib import Path

import pytest

from open_llm_server.errors import StartError
from open_llm_server.supervisor_sockets import listen_tcp, listen_unix, runtime_folder


def test_the_folder_is_private_and_gone_afterwards() -> None:
    with runtime_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "file").touch()
    assert not folder.exists()


def test_folders_of_killed_servers_are_removed_and_living_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="olm", dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        dead = Path(tempfile.mkdtemp(prefix="open-llm-server-"))
        (dead / "resolved.json").touch()
        with runtime_folder() as living, runtime_folder() as folder:
            assert living.parent == folder.parent == Path(short)
            assert not dead.exists()
            assert living.exists()


def test_a_long_temporary_folder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with runtime_folder() as folder, listen_unix(folder / "r0.sock") as listening:
        assert stat.S_IMODE((folder / "r0.sock").stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(listening.getsockname())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_listening_by_name_and_address(host: str) -> None:
    with listen_tcp(host, 0) as listening:
        port = listening.getsockname()[1]
        family = listening.family
        address = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        socket.create_connection((address, port)).close()


def test_a_taken_port_names_the_way_out() -> None:
    with listen_tcp("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(StartError, match=rf"port {port} of 127.0.0.1 is taken.*--port"):
            listen_tcp("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.77", "no such host"])
def test_an_address_that_is_not_ours_names_the_way_out(host: str) -> None:
    with pytest.raises(StartError, match="--host"):
        listen_tcp(host, 0)
