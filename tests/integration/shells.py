"""Somebody at a shell, who types the commands of this program."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
from running import HANG_S


class Person:
    """Works in `folder`, with an empty BENTOML_HOME and no network."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("OPEN_LLM_", "HF_"))
            },
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "BENTOML_HOME": str(self.home),
            "HF_HUB_OFFLINE": "1",
            **environment,
        }

    def begin(self, line: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            shlex.split(line),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def do(self, line: str, *, code: int = 0) -> tuple[str, str]:
        """What a command says on standard output and error."""
        with self.begin(f"open-llm-server {line}") as process:
            try:
                said = process.communicate(timeout=2 * HANG_S)
            finally:
                process.kill()
        assert process.returncode == code, said
        return said

    def starts(self, line: str) -> None:
        """The server comes up, answers whoever has a key, and ends."""
        words = shlex.split(line)
        keys = [key for word, key in itertools.pairwise(words) if word == "--api-key"]
        with self.begin(f"{line} --port 0") as process:
            watchdog = threading.Timer(2 * HANG_S, process.kill)
            watchdog.start()
            try:
                url = _first_url(process)
                deadline = time.monotonic() + HANG_S
                while httpx.get(f"{url}/readyz", timeout=HANG_S).status_code != 200:
                    assert time.monotonic() < deadline, "a model that is imported never came"
                    time.sleep(0.1)
                answer = httpx.post(
                    f"{url}/chat",
                    json={"prompt": "Hi"},
                    headers={"X-Api-Key": keys[0]} if keys else {},
                    timeout=HANG_S,
                )
                assert answer.status_code == 200, answer.text
                process.send_signal(signal.SIGINT)
                process.communicate()
            finally:
                process.kill()
                watchdog.cancel()


def _first_url(process: subprocess.Popen[str]) -> str:
    assert process.stderr
    seen = []
    for line in process.stderr:
        seen.append(line)
        if found := re.search(r"https?://[\w.:\[\]]+", line):
            return found.group()
    raise AssertionError("".join(seen))
