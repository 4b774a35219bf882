"""The fixtures that start real servers; makes the helpers beside it importable everywhere."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from running import HANG_S, Running, Serve, StartServer, wait_until_ready
from toy import toy_worker

from open_llm_server.serving import start

if TYPE_CHECKING:
    from podman_engine import Podman

with warnings.catch_warnings():
    # Libraries under BentoML warn at import.
    warnings.simplefilter("ignore")
    import bentoml._internal.server.http_app  # noqa: F401 - once, so that nobody else hears them


@pytest.fixture(scope="session", autouse=True)
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a person has imported changes no test, and no test leaves anything there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(tmp_path_factory.mktemp("bentoml")))
        yield


@pytest.fixture
def server() -> Iterator[StartServer]:
    """Starts servers on free ports: `server("one=fake,two=fake", sets=["one.step_s=0.1"])`.

    Keywords are those of `open_llm_server.start`. What a test leaves running is ended.
    """
    started: list[Running] = []

    def begin(models: str, **options: Any) -> Running:
        running = Running(start(models, **{"port": 0, "wait_s": HANG_S, **options}))
        started.append(running)
        return running

    yield begin
    for running in started:
        running.end()


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Running]:
    """Two models, `one` and `two`, for tests that neither kill nor configure anything."""
    with start(
        ["one=fake", "two=fake"], port=0, sets=["two.reply_tokens=3"], wait_s=HANG_S
    ) as running:
        yield Running(running)


@pytest.fixture(scope="session")
def toy_socket() -> Iterator[Path]:
    """The socket of BentoML's own runner worker; see `toy`."""
    # A short path, because a unix socket's must be.
    with tempfile.TemporaryDirectory(prefix="olm-toy-") as folder, toy_worker(Path(folder)) as path:
        yield path


@pytest.fixture
def bentoml_serve(tmp_path: Path) -> Iterator[Serve]:
    """`bentoml serve` of a service of `tmp_path`; gives its address once its /readyz says yes."""
    started: list[subprocess.Popen[bytes]] = []

    def serve(service: str, **environment: str) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "bentoml", "serve", service, "--api-workers", "1"),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            cwd=tmp_path,
            env={**os.environ, "BENTOML_HOME": str(tmp_path / "home"), **environment},
            start_new_session=True,
        )
        started.append(process)
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        return f"http://127.0.0.1:{port}"

    yield serve
    for process in started:
        family = [*psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(HANG_S)
        finally:
            for member in family:
                if member.is_running():
                    member.kill()


def pytest_configure() -> None:
    """A shell in the background has its children ignore SIGINT, and theirs, and so on."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    """llama-cpp-python opens /dev/null twice when it is imported, and never closes it."""
    if utils := sys.modules.get("llama_cpp._utils"):
        utils.outnull_file.close()
        utils.errnull_file.close()


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    """Where containers can be run, and this checkout's image is there; else a reason to skip."""
    from podman_engine import NoPodman, usable_podman

    try:
        return usable_podman(tmp_path_factory.mktemp("podman"))
    except NoPodman as reason:
        pytest.skip(str(reason))
