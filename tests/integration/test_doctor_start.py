"""The doctor against the truth: it has a problem exactly where `start` ends with an error."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from running import HANG_S
from shells import Person

HIDDEN = "import sys\nsys.modules.update(dict.fromkeys({names!r}))\n"
"""For Python's own start: the modules `names` are not installed."""


def told(person: Person, line: str, *, code: int) -> dict[str, Any]:
    out, _ = person.do(f"doctor {line} --json", code=code)
    answer: dict[str, Any] = json.loads(out)
    return answer


def problems(answer: dict[str, Any]) -> list[dict[str, str]]:
    return [one for one in answer["findings"] if one["level"] == "problem"]


def both(person: Person, line: str) -> tuple[dict[str, Any], int, str]:
    """What the doctor finds, how a start ends that ends by itself, and what it says last."""
    with person.begin(f"open-llm-server start {line}") as process:
        try:
            answer = told(person, line, code=1)
            _, said = process.communicate(timeout=2 * HANG_S)
        finally:
            process.kill()
    return answer, process.returncode, said.strip().splitlines()[-1]


@dataclass(frozen=True)
class Trial:
    """What is typed where, and what the doctor finds: group and words of the one problem."""

    line: str
    group: str
    words: str
    environment: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], object] = lambda _: None


def without(*names: str) -> dict[str, Any]:
    def prepare(folder: Path) -> None:
        (folder / "path").mkdir()
        (folder / "path" / "sitecustomize.py").write_text(HIDDEN.format(names=names))

    return {"environment": {"PYTHONPATH": "path"}, "prepare": prepare}


def with_llama(code: str) -> dict[str, Any]:
    """Somebody's `llama_cpp` that does this when it is imported."""

    def prepare(folder: Path) -> None:
        (folder / "path" / "llama_cpp").mkdir(parents=True)
        (folder / "path" / "llama_cpp" / "__init__.py").write_text(code)

    return {"environment": {"PYTHONPATH": "path"}, "prepare": prepare}


TRIALS = {
    "unknown variable": Trial(
        "tiny --port 0",
        "Configuration",
        "OPEN_LLM_BLOOM_FRQUENCY_PENALTY",
        {"OPEN_LLM_BLOOM_FRQUENCY_PENALTY": "0.1"},
    ),
    "unknown model": Trial("tinny --port 0", "Configuration", "no model or family 'tinny'"),
    "no such host": Trial("tiny --host 192.0.2.1 --insecure --port 0", "Ports", "192.0.2.1"),
    "too large": Trial(
        "tiny --context-length 16000000 --slots 1000 --port 0",
        "Models and memory",
        "are free",
    ),
    "no weights": Trial(
        "llama@./odd.gguf --port 0",
        "Models and memory",
        "odd.gguf",
        prepare=lambda folder: (folder / "odd.gguf").write_text("nonsense"),
    ),
    "offline": Trial("flan-t5 --port 0", "Models and memory", "HF_HUB_OFFLINE forbids"),
    "no store for an import": Trial(
        "flan-t5 --port 0",
        "Configuration",
        "is a file",
        prepare=lambda folder: (folder / "home").touch(),
    ),
    "no llama.cpp": Trial(
        "tiny --port 0",
        "Installation",
        "tiny needs llama-cpp-python, not installed here",
        **without("llama_cpp"),
    ),
    "no gRPC": Trial(
        "tiny --grpc --port 0", "Installation", "gRPC needs grpcio", **without("grpc")
    ),
    "broken llama.cpp": Trial(
        "tiny --port 0",
        "llama.cpp",
        "ImportError: no library",
        **with_llama("raise ImportError('no library')"),
    ),
    "llama.cpp that ends the process": Trial(
        "tiny --port 0",
        "llama.cpp",
        "its process ended without an answer",
        **with_llama("import os\nos._exit(0)"),
    ),
    "llama.cpp for another processor": Trial(
        "tiny --port 0",
        "llama.cpp",
        "SIGILL",
        **with_llama("import os, signal\nos.kill(os.getpid(), signal.SIGILL)"),
    ),
}


@pytest.mark.server
@pytest.mark.parametrize("name", TRIALS)
def test_what_stops_a_start_is_a_problem(name: str, tmp_path: Path) -> None:
    trial = TRIALS[name]
    trial.prepare(tmp_path)
    environment = dict(trial.environment)
    if "PYTHONPATH" in environment:
        environment["PYTHONPATH"] = os.fspath(tmp_path / "path")
    person = Person(tmp_path, environment)
    answer, code, last = both(person, trial.line)
    (problem,) = problems(answer)
    assert problem["group"] == trial.group
    assert trial.words in f"{problem['subject']}: {problem['says']}"
    assert problem["do"]
    assert code != 0
    assert "error: " in last or "signal SIGILL" in last


@pytest.fixture
def taken() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening.getsockname()[1]


@pytest.mark.server
def test_a_port_that_is_taken(taken: int, tmp_path: Path) -> None:
    answer, code, last = both(Person(tmp_path, {}), f"tiny --port 0 --grpc-port {taken}")
    (problem,) = problems(answer)
    assert problem["group"] == "Ports"
    assert f"(process {os.getpid()})" in problem["says"]
    assert code == 1
    assert f"port {taken}" in last


@pytest.mark.server
@pytest.mark.parametrize(
    ("line", "trick"),
    [
        ("one=tiny,two=fake --engine torch", {}),
        # What is here needs no package of others.
        ("tiny", without("torch", "grpc")),
        ("fake", with_llama("raise ImportError('no library')")),
    ],
)
def test_what_comes_up_has_no_problem(line: str, trick: dict[str, Any], tmp_path: Path) -> None:
    environment = {"HF_ENDPOINT": "nonsense"}
    if trick:
        trick["prepare"](tmp_path)
        environment["PYTHONPATH"] = os.fspath(tmp_path / "path")
    (tmp_path / "home").touch()  # nor a store
    person = Person(tmp_path, environment)
    answer = told(person, f"{line} --port 0", code=0)
    assert answer["starts"]
    assert problems(answer) == []
    person.starts(f"open-llm-server start {line}")


@pytest.mark.server
@pytest.mark.parametrize("home", ["/proc/nothing", "odd"])
def test_a_server_needs_no_store(home: str, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "envs").touch()
    person = Person(tmp_path, {"BENTOML_HOME": str(tmp_path / home)})
    (store,) = (
        one
        for one in told(person, "tiny --port 0", code=0)["findings"]
        if (one["group"], one["subject"]) == ("Store", "store")
    )
    assert store["level"] == "warning"
    person.starts("open-llm-server start tiny")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    person = Person(tmp_path, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:1"})
    person.home.mkdir(mode=0o500)
    answer, _, last = both(person, "flan-t5 --port 0")
    assert [one["subject"] for one in problems(answer)] == ["flan-t5"]
    assert "cannot be written" in last
    assert told(person, "tiny --port 0", code=0)["starts"]
