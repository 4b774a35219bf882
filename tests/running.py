"""A real server as processes, and what tests ask of it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import psutil
import pytest

from open_llm_server.serving import Server

HANG_S = 60.0
"""No test measures with this; it ends one that hangs."""


@dataclass(frozen=True)
class Running:
    """A server, and its processes by role."""

    server: Server

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def supervisor(self) -> psutil.Process:
        return psutil.Process(self.server.pid)

    def descendants(self) -> list[psutil.Process]:
        return self.supervisor.children(recursive=True)

    def workers(self, role: str) -> list[psutil.Process]:
        """The living workers: `api`, or the name of a model."""
        return [process for process in self.descendants() if role_of(process) == role]

    def worker(self, role: str) -> psutil.Process:
        (process,) = self.workers(role)
        return process

    def chat(self, prompt: str = "Hello", **fields: Any) -> httpx.Response:
        messages = [{"role": "user", "content": prompt}]
        body = {"messages": messages, **fields}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=HANG_S)

    def stream(self, prompt: str = "Hello", **fields: Any) -> Iterator[dict[str, Any] | str]:
        """The events of a streamed chat: parsed, or "[DONE]"."""
        messages = [{"role": "user", "content": prompt}]
        body = {"messages": messages, "stream": True, **fields}
        with httpx.stream(
            "POST", f"{self.url}/v1/chat/completions", json=body, timeout=HANG_S
        ) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    data = line.removeprefix("data: ")
                    yield data if data == "[DONE]" else json.loads(data)

    def answered(self, prompt: str = "Hello", **fields: Any) -> httpx.Response:
        """The first answer that is one: a runner that is being replaced refuses for a while."""
        deadline = time.monotonic() + HANG_S
        while True:
            response = self.chat(prompt, **fields)
            if response.status_code == 200:
                return response
            assert response.status_code == 503, response.text
            assert time.monotonic() < deadline, response.text

    def end(self) -> None:
        """Stops the server at once if it still runs: two signals, no drain."""
        if self.server._popen.poll() is None:
            self.supervisor.send_signal(signal.SIGTERM)
            self.supervisor.send_signal(signal.SIGINT)
        self.server.stop()


def role_of(process: psutil.Process) -> str | None:
    try:
        line = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None
    if "--runner-name" in line:
        return line[line.index("--runner-name") + 1].removeprefix("olm-").removesuffix("-0")
    return "api" if "api" in line else None


def text_of(events: Iterable[dict[str, Any] | str]) -> str:
    """The text of a whole streamed answer."""
    return "".join(
        event["choices"][0]["delta"].get("content") or ""
        for event in events
        if isinstance(event, dict) and event.get("choices")
    )


class StartServer(Protocol):
    def __call__(self, models: str, **options: Any) -> Running: ...


class Serve(Protocol):
    def __call__(self, service: str, **environment: str) -> str: ...


def wait_until_ready(url: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """`process`: whose end is the end of waiting."""
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline:
        assert process is None or process.poll() is None
        try:
            if httpx.get(f"{url}/readyz", timeout=HANG_S).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail("the service was never ready")
