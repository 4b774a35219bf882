"""The health check of images, against real servers of every kind."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import HANG_S, StartServer

TLS = Path(__file__).parent / "tls"
CERT = {"tls_cert": str(TLS / "cert.pem"), "tls_key": str(TLS / "key.pem")}


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nobody else's runtime folders."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)
    monkeypatch.setattr(tempfile, "tempdir", None)


def check() -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "open_llm_server.healthcheck"],
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    return done.returncode, done.stderr


@pytest.mark.server
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"grpc_port": 0},
        {"grpc": True},
        {"api_key": ["secret"]},
        CERT,
        {**CERT, "tls_ca": str(TLS / "cert.pem")},
    ],
    ids=["http", "both", "grpc", "key", "tls", "mutual tls"],
)
def test_a_server_that_is_ready(
    server: StartServer, own_folder: Path, options: dict[str, object]
) -> None:
    running = server("fake", **options)
    assert check() == (0, "")
    running.end()
    assert check() == (1, "no server runs here\n")


@pytest.mark.server
def test_a_server_that_does_not_answer(server: StartServer, own_folder: Path) -> None:
    running = server("fake")
    running.supervisor.suspend()
    running.worker("api").suspend()
    try:
        code, said = check()
        assert code == 1 and "/readyz does not answer" in said
    finally:
        running.worker("api").resume()
        running.supervisor.resume()


def test_where_nothing_runs(own_folder: Path) -> None:
    assert check() == (1, "no server runs here\n")
