"""Serving with `bentoml serve`, as a person at a shell does it, down to the last process."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from running import HANG_S, wait_until_ready


def shell(line: str, folder: Path, environment: Mapping[str, str]) -> str:
    """What a line says when it succeeds."""
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * HANG_S,
    )
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def served(line: str, folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The address of what a line with `--port 3000` in it serves; afterwards all of it is gone."""
    port = free_port()
    assert "--port 3000" in line
    with (folder / f"served-{port}.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line.replace('--port 3000', f'--port {port}')}"],
            cwd=folder,
            env={**environment, "BENTOML_DO_NOT_TRACK": "True"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    family: list[psutil.Process] = []
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        family = psutil.Process(process.pid).children(recursive=True)
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        process.wait(HANG_S)
        _, left = psutil.wait_procs(family, timeout=HANG_S)
        assert not left
    except BaseException:
        print(Path(log.name).read_text())  # noqa: T201 - shown with the failure
        raise
    finally:
        for member in [*family, *_children(process)]:
            if member.is_running():
                member.kill()
        process.kill()
        process.wait()


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def chat(url: str, **body: Any) -> str:
    response = httpx.post(f"{url}/chat", json={"prompt": "Hello", **body}, timeout=HANG_S)
    assert response.status_code == 200, response.text
    message: str = response.json()["message"]
    assert message
    return message


def until(check: Callable[[], bool]) -> None:
    """Returns when `check()` is true."""
    deadline = time.monotonic() + HANG_S
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def text_files(folder: Path) -> str:
    """All of the text in a folder."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".gguf")
    return "\n".join(path.read_text(errors="replace") for path in found)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
