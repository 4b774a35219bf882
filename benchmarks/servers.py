"""Starts the servers that are compared, each as a person would start it, on a free port."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from .models import BUILD

MODEL = "bench"
SLOTS = 16
CONTEXT = 1024
READY_S = 120.0
PEER_NEEDS = ("fastapi", "sse-starlette", "starlette-context<0.4", "pydantic-settings", "uvicorn")


@dataclass(frozen=True)
class Server:
    """A running server, as callers see it."""

    name: str
    port: int
    model: str = MODEL
    pid: int = 0
    """The process that was started; others may be below it."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def ours(models: str, options: Sequence[str], *, model: str = MODEL) -> Iterator[Server]:
    """Our server, through its command line."""
    port = free_port()
    command = [sys.executable, "-m", "open_llm_server", "start", models, "--port", str(port)]
    with started("open-llm-server", [*command, *options], port, "/readyz") as pid:
        yield Server("open-llm-server", port, model, pid)


@contextmanager
def ours_with_weights(path: Path, threads: int) -> Iterator[Server]:
    options = ["--slots", str(SLOTS), "--context-length", str(CONTEXT), "--threads", str(threads)]
    with ours(f"{MODEL}=llama@{path}", options) as server:
        yield server


@contextmanager
def llama_server(binary: str, path: Path, threads: int) -> Iterator[Server]:
    """llama.cpp's own server; `binary` is its path."""
    port = free_port()
    command = [binary, "-m", str(path), "--alias", MODEL, "--port", str(port), "--no-webui"]
    command += ["-np", str(SLOTS), "-c", str(SLOTS * CONTEXT)]
    command += ["-t", str(threads), "-tb", str(threads)]
    with started("llama-server", command, port, "/health"):
        yield Server("llama-server", port)


@contextmanager
def llama_cpp_server(path: Path, threads: int) -> Iterator[Server]:
    """The server of llama-cpp-python, told not to end one client's stream for the next."""
    port = free_port()
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(path)]
    command += ["--model_alias", MODEL, "--port", str(port), "--interrupt_requests", "false"]
    command += ["--n_ctx", str(CONTEXT), "--n_threads", str(threads), "--verbose", "false"]
    with started(
        "llama_cpp.server", command, port, "/v1/models", {"PYTHONPATH": str(peer_packages())}
    ):
        yield Server("llama_cpp.server", port)


def peer_packages() -> Path:
    """What llama_cpp.server needs beside our environment, in a folder of its own."""
    folder = BUILD / "peer-packages"
    if not folder.exists() and importlib.util.find_spec("starlette_context") is None:
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, *PEER_NEEDS],
            check=True,
        )
    return folder


@contextmanager
def started(
    name: str, command: Sequence[str], port: int, ready: str, extra: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Runs `command` until the block ends, with `extra` in its environment; gives its process id
    once path `ready` of `port` answers. What it says goes to a file of its `name`.

    Raises RuntimeError if it does not become ready.
    """
    BUILD.mkdir(exist_ok=True)
    log = BUILD / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(extra or {})},
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}{ready}", name, log)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, name: str, log: Path) -> None:
    ends_at = time.monotonic() + READY_S
    while time.monotonic() < ends_at and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"{name} did not become ready; see {log}")
