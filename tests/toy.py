"""BentoML's runner worker with a runnable of the plain kind, for the contract tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SERVICE_FOLDER = Path(__file__).parent / "contract"
LIMIT_S = 1
DEVICES = {"CUDA_VISIBLE_DEVICES": "7", "TOY_THREADS": "3"}


@contextlib.contextmanager
def toy_worker(folder: Path) -> Iterator[Path]:
    """The worker's socket, which this process bound and handed over, as a supervisor does."""
    path = folder / "toy.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        listening.listen(64)
        worker = subprocess.Popen(
            [
                *(sys.executable, "-m", "bentoml_cli.worker.runner", "toy_service:svc"),
                *("--runner-name", "toy", "--worker-id", "1"),
                *("--fd", str(listening.fileno())),
                *("--working-dir", os.fspath(SERVICE_FOLDER)),
                *("--worker-env-map", json.dumps({"0": DEVICES})),
                *("--timeout", str(LIMIT_S), "--no-access-log"),
            ],
            pass_fds=[listening.fileno()],
            env={**os.environ, "BENTOML_HOME": os.fspath(folder / "home")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        try:
            yield path
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)
