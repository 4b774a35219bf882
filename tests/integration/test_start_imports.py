"""`start` on models that are not on this machine: they are imported while others serve."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkpoints
import ggufs
import httpx
import psutil
import pytest
from fake_hub import FakeHub, Fault
from running import HANG_S, Serve, role_of

from open_llm_server import import_model
from open_llm_server.store.catalog import entries
from open_llm_server.store.remove import remove

pytestmark = [pytest.mark.server, pytest.mark.weights]

ID, FILE = "some/tiny-GGUF", "small-F32.gguf"
SOURCE = f"llama@{ID}"
SLOW = Fault("drip", times=None, rate=150_000)
"""The model's 600 kB take some seconds."""


class Started:
    """`open-llm-server start`, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as output:
            for line in output:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        self.process.wait()
        with self._changed:
            self._changed.notify_all()

    def line(self, pattern: str) -> re.Match[str]:
        """The first line with `pattern` in it, as soon as it is there."""

        def found() -> re.Match[str] | None:
            return next(filter(None, (re.search(pattern, line) for line in self.lines)), None)

        with self._changed:
            ended = self._changed.wait_for(
                lambda: found() or self.process.returncode is not None, HANG_S
            )
            match = found()
        assert ended and match, "\n".join(self.lines)
        return match

    @property
    def url(self) -> str:
        return self.line(r"Open LLM server on (\S+)")[1]

    def readiness(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.url}/readyz", timeout=HANG_S).json()
        return answer

    def chat(self, model: str) -> httpx.Response:
        body = {"model": model, "prompt": "Hello", "max_tokens": 5, "temperature": 0}
        return httpx.post(f"{self.url}/chat", json=body, timeout=HANG_S)

    def wait(self) -> int:
        return self.process.wait(HANG_S)

    def end(self) -> None:
        """At once: two signals, no drain."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGINT)
        try:
            self.wait()
        finally:
            self.process.kill()
            self._reader.join()


Start = Callable[..., Started]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ggufs.small(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def hub(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.use(monkeypatch, tmp_path / "hf")
        hub.add(ID, {FILE: weights.read_bytes(), "README.md": b"# tiny"}, licence="mit")
        yield hub


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bentoml"
    monkeypatch.setenv("BENTOML_HOME", str(folder))
    return folder


@pytest.fixture
def start(hub: FakeHub, home: Path, tmp_path: Path) -> Iterator[Start]:
    running: list[Started] = []

    def begin(*words: str, **environment: str) -> Started:
        process = subprocess.Popen(
            [sys.executable, "-m", "open_llm_server", *words, "--port", "0"],
            env={**os.environ, **hub.environment(tmp_path / "hf"), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        running.append(Started(process))
        return running[-1]

    yield begin
    for started in running:
        started.end()


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + HANG_S
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def kill(started: Started, role: str) -> None:
    workers = psutil.Process(started.process.pid).children(recursive=True)
    (worker,) = [worker for worker in workers if role_of(worker) == role]
    worker.kill()


def progress(started: Started) -> dict[str, Any]:
    found: dict[str, Any] = started.readiness().get("importing", {}).get("llama", {})
    return found


def test_others_serve_while_one_is_imported(hub: FakeHub, start: Start, weights: Path) -> None:
    hub.fault(ID, FILE, SLOW)
    started = start("start", f"fake,{SOURCE}")
    started.line(rf"llama: importing {ID} \.\.\.")
    assert "on their way: llama" in started.line("Open LLM server on .*").string

    until(lambda: progress(started).get("phase") == "downloading")
    assert progress(started)["total"] == weights.stat().st_size
    assert started.readiness()["models"] == {"fake": "ready", "llama": "loading"}
    refused = started.chat("llama")
    assert refused.status_code == 503
    error = refused.json()["error"]
    assert error["code"] == "model_loading"
    assert "is being imported (downloading, " in error["message"]
    assert set(error["progress"]) == {"phase", "done", "total", "eta_s"}
    assert int(refused.headers["Retry-After"]) >= 1
    assert started.chat("fake").status_code == 200

    started.line("llama: downloading")
    started.line("llama: ready in ")
    answered = started.chat("llama")
    assert answered.status_code == 200, answered.text
    assert started.readiness() == {
        "status": "ready",
        "models": {"fake": "ready", "llama": "ready"},
    }
    (entry,) = entries()
    assert (entry.manifest.location, entry.manifest.licence) == (ID, "mit")


def test_what_was_imported_needs_no_network(hub: FakeHub, start: Start) -> None:
    first = start("start", SOURCE)
    first.line("llama: ready in ")
    text = first.chat("llama").json()["message"]
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == 0

    asked = len(hub.requests)
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        again = start("start", SOURCE, **environment)
        again.line("llama: loading")
        again.line("llama: ready in ")
        assert again.chat("llama").json()["message"] == text
    assert len(hub.requests) == asked


def test_without_network_the_error_says_what_to_run(start: Start) -> None:
    started = start("start", SOURCE, HF_HUB_OFFLINE="1")
    assert started.wait() == 1
    started.line(rf"^error: .*open-llm-server import llama@{ID}")


def test_a_model_that_the_hub_lacks(start: Start) -> None:
    started = start("start", "llama@some/other")
    assert started.wait() == 1
    started.line("^error: .*some/other")


def test_a_killed_import_goes_on_where_it_was(hub: FakeHub, start: Start, weights: Path) -> None:
    hub.fault(ID, FILE, SLOW)
    started = start("start", f"fake,{SOURCE}")
    size = weights.stat().st_size
    until(lambda: progress(started).get("done", 0) > size / 4)
    kill(started, "llama")
    started.line("llama: its process ended by signal SIGKILL")
    started.line("llama: ready in ")
    assert started.chat("llama").status_code == 200
    assert hub.sent < 1.5 * size


def test_stopping_during_an_import(hub: FakeHub, start: Start, home: Path, weights: Path) -> None:
    hub.fault(ID, FILE, Fault("drip", times=None, rate=50_000))
    started = start("start", f"fake,{SOURCE}")
    until(lambda: progress(started).get("done"))
    started.process.send_signal(signal.SIGTERM)
    assert started.wait() == 0
    assert entries() == []


def test_a_hub_that_does_not_answer_stops_no_other_model(hub: FakeHub, start: Start) -> None:
    hub.fault(ID, "", Fault("status", times=None, status=404), at="describe")
    refused = start("start", f"fake,{SOURCE}")
    assert refused.wait() == 1  # nothing will change by itself

    down = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    alone = start("start", SOURCE, **down)
    assert alone.wait() == 1
    alone.line("^error: ")
    beside = start("start", f"fake,{SOURCE}", **down)
    beside.line("llama: starting it again")
    assert beside.chat("fake").status_code == 200
    assert beside.chat("llama").status_code == 503


def test_weights_that_are_refused_stop_no_other_model(
    hub: FakeHub, start: Start, weights: Path
) -> None:
    """What the gate says after a long download is no reason to take the others away."""
    damaged = bytearray(weights.read_bytes())
    damaged[4] = 99  # a version that nobody has
    hub.add("some/damaged", {FILE: bytes(damaged)})
    hub.fault("some/damaged", FILE, SLOW)
    started = start("start", "fake,llama@some/damaged")
    assert started.chat("fake").status_code == 200
    started.line("llama: is given up")
    assert started.chat("fake").status_code == 200
    refused = started.chat("llama")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_failed")
    assert "Retry-After" not in refused.headers
    until(lambda: started.readiness()["models"] == {"fake": "ready", "llama": "failed"})
    assert started.process.poll() is None


def test_a_server_keeps_the_weights_it_has_begun_with(
    hub: FakeHub, start: Start, tmp_path: Path
) -> None:
    started = start("start", f"fake,{SOURCE}")
    started.line("llama: ready in ")
    text = started.chat("llama").json()["message"]
    (first,) = entries()
    hub.add(ID, {FILE: ggufs.small(tmp_path, seed=5).read_bytes()})
    import_model(SOURCE)
    kill(started, "llama")
    started.line("llama: ready again")
    assert started.chat("llama").json()["message"] == text

    remove(first)
    kill(started, "llama")
    until(lambda: sum("llama: ready again" in line for line in started.lines) == 2)
    assert started.chat("llama").json()["message"] != text, "what is gone is brought again"
    started.line(rf"llama: WARNING: the store no longer has {first.tag}, .* it serves \S+ from now")


def test_a_checkpoint(hub: FakeHub, start: Start, tmp_path: Path) -> None:
    folder = checkpoints.make_t5(tmp_path / "t5")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.add("some/t5", {**files, "run_me.py": b"raise SystemExit"})
    started = start("start", "flan-t5@some/t5")
    started.line("flan-t5: ready in ")
    assert started.chat("flan-t5").status_code == 200
    (entry,) = entries()
    assert not [*entry.folder.glob("*.py")]


def test_bentomls_own_serve_imports_too(
    hub: FakeHub, bentoml_serve: Serve, tmp_path: Path, weights: Path
) -> None:
    url = bentoml_serve(
        "open_llm_server.service:svc",
        OPEN_LLM_MODELS=SOURCE,
        **hub.environment(tmp_path / "hf"),
    )
    body = {"prompt": "Hello", "max_tokens": 3}
    assert httpx.post(f"{url}/chat", json=body, timeout=HANG_S).status_code == 200
