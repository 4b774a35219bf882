"""Servers for torch's models, each as a person would start it, and the packages that peers need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from .servers import SLOTS, Server, free_port, started
from .torch_models import BUILD, Checkpoint

CONTEXT = 512
NEEDS = (
    "ctranslate2", "fastapi", "openai>=1.98", "pydantic>=2", "rich", "starlette", "uvicorn",
)  # fmt: skip
"""What CTranslate2 and `transformers serve` need beside our environment."""


def packages() -> Path:
    """The peers' packages, in a folder of their own, installed now if they are not there."""
    folder = BUILD / "peer-packages-torch"
    if not folder.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, *NEEDS],
            check=True,
        )
    return folder


@contextmanager
def ours(
    checkpoint: Checkpoint, path: Path, threads: int, dtype: str = "bfloat16"
) -> Iterator[Server]:
    """Our server with SLOTS slots of CONTEXT tokens."""
    name, port = f"open-llm-server {dtype}", free_port()
    command = [sys.executable, "-m", "open_llm_server", "start"]
    command += [f"bench={checkpoint.family}@{path}", "--port", str(port), "--dtype", dtype]
    command += ["--slots", str(SLOTS), "--context-length", str(CONTEXT), "--threads", str(threads)]
    with started(name.replace(" ", "-"), command, port, "/readyz") as pid:
        yield Server(name, port, pid=pid)


@contextmanager
def transformers_serve(path: Path, threads: int, *, batching: bool) -> Iterator[Server]:
    """transformers' own server, one request after the other or with its continuous batching."""
    name = "transformers serve, batching" if batching else "transformers serve"
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(path)]
    command += ["--port", str(port), "--host", "127.0.0.1", "--device", "cpu"]
    command += ["--dtype", "bfloat16"]
    command += ["--continuous-batching"] if batching else []
    extra = {"PYTHONPATH": str(packages()), "OMP_NUM_THREADS": str(threads)}
    log = name.replace(", ", "-").replace(" ", "-")
    with started(log, command, port, "/health", extra) as pid:
        yield Server(name, port, str(path), pid)


def runner_bytes(server: Server) -> int:
    """Resident memory of the process of our server that holds the model."""
    for process in psutil.Process(server.pid).children(recursive=True):
        if "--runner-name" in process.cmdline():
            resident: int = process.memory_info().rss
            return resident
    raise RuntimeError("the server has no runner")
