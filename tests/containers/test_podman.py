"""`run-container` with a real podman, end to end: as a person runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from podman_engine import IMAGE, ROOT, Podman, free_port
from running import HANG_S

pytestmark = pytest.mark.server
KEY = "a-key-that-nobody-may-see"
TINY = ROOT / "models" / "tiny" / "tiny-q8_0.gguf"


@dataclass(frozen=True)
class Contained:
    """A running container, as its caller has it."""

    podman: Podman
    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def id(self) -> str:
        return self.podman.container_at(self.port)

    def chat(self, **fields: object) -> httpx.Response:
        body = {"prompt": "Hello, how are you?", **fields}
        headers = {"X-Api-Key": KEY}
        return httpx.post(f"{self.url}/chat", json=body, headers=headers, timeout=HANG_S)

    def inside(self, *words: str) -> str:
        return self.podman("exec", self.id, *words)

    def python(self, script: str) -> str:
        return self.inside("python", "-c", script)


@contextmanager
def running(
    podman: Podman, folder: Path, words: Sequence[str], environment: Mapping[str, str] = {}
) -> Iterator[Contained]:
    """`run-container` with `words`, ready to answer; stopped by Ctrl-C at the end."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "open_llm_server", "run-container", *words),
        *("--target-device=cpu", "--container-engine=podman", f"--image={IMAGE}"),
        *("--port", str(port)),
    ]
    homes = {"BENTOML_HOME": str(folder / "store"), "HF_HOME": str(folder / "hub")}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **podman.environment, **homes, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait(process, port)
        yield Contained(podman, process, port)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            said, _ = process.communicate(timeout=HANG_S)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            pytest.fail(f"Ctrl-C did not stop it: {said}")


def _wait(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + 2 * HANG_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=HANG_S).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    process.kill()
    raise AssertionError(process.communicate()[0])


@pytest.fixture(scope="module")
def tiny(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contained]:
    folder = tmp_path_factory.mktemp("contained")
    words = ["tiny", "--set=tiny.temperature=0", "--max-tokens=20"]
    with running(podman, folder, words, {"OPEN_LLM_API_KEY": KEY}) as contained:
        yield contained


def test_it_answers_through_the_published_port(tiny: Contained) -> None:
    answer = tiny.chat()
    assert answer.status_code == 200 and answer.json()["message"]
    assert answer.json()["usage"]["completion_tokens"] <= 20, "flags arrive"
    without = httpx.post(f"{tiny.url}/chat", json={"prompt": "Hi"}, timeout=HANG_S)
    assert without.status_code == 401, "variables arrive"


def test_only_this_machine_reaches_it(tiny: Contained) -> None:
    ports = tiny.podman.inspect("container", tiny.id)["NetworkSettings"]["Ports"]
    assert [each["HostIp"] for each in ports[f"{tiny.port}/tcp"]] == ["127.0.0.1"]
    foreign = httpx.get(f"{tiny.url}/v1/models", headers={"Host": "evil.example"}, timeout=HANG_S)
    assert foreign.status_code in (403, 421), "pages of other sites do not get in by a name"


def test_it_has_no_rights(tiny: Contained) -> None:
    status = dict(
        line.split(":\t", 1) for line in tiny.inside("cat", "/proc/1/status").splitlines()
    )
    assert status["Uid"].split()[0] != "0" and status["Gid"].split()[0] != "0"
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    for folder in ("/", "/opt/open-llm-server", "/etc", "/home"):
        with pytest.raises(subprocess.CalledProcessError) as raised:
            tiny.inside("touch", f"{folder}/x")
        assert "Read-only file system" in raised.value.stderr


def test_the_key_stands_on_no_command_line(tiny: Contained) -> None:
    assert KEY not in str(tiny.process.args)
    assert KEY not in Path(f"/proc/{tiny.process.pid}/cmdline").read_text()
    assert KEY not in tiny.inside("cat", "/proc/1/cmdline")


def test_its_health_check(tiny: Contained) -> None:
    tiny.podman("healthcheck", "run", tiny.id)


def test_a_killed_runner_comes_back(tiny: Contained) -> None:
    """Also as process 1 of a container; and what it leaves behind is reaped."""
    kill = (
        "import os, pathlib\n"
        "for each in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
        "    if b'\\0--runner-name\\0' in each.read_bytes(): os.kill(int(each.parent.name), 9)\n"
    )
    tiny.python(kill)
    deadline = time.monotonic() + HANG_S
    while (answer := tiny.chat()).status_code != 200:
        assert answer.status_code == 503 and time.monotonic() < deadline, answer.text
        time.sleep(0.1)
    states = (
        "import pathlib\n"
        "print([each.read_text().rpartition(')')[2].split()[0] "
        "for each in pathlib.Path('/proc').glob('[0-9]*/stat')])\n"
    )
    assert "'Z'" not in tiny.python(states)


def test_it_drains(podman: Podman, tmp_path: Path) -> None:
    """SIGTERM lets an open answer end, and refuses others meanwhile."""
    words = ["fake", "--set=fake.step_s=0.05", "--set=fake.reply_tokens=60"]
    with running(podman, tmp_path, words) as fake:
        body = {"prompt": "Hello", "stream": True}
        with httpx.stream("POST", f"{fake.url}/chat", json=body, timeout=HANG_S) as response:
            lines = response.iter_lines()
            first = next(line for line in lines if line.startswith("data: "))
            fake.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line.startswith("data: ")]
        deltas = [json.loads(line[6:]) for line in (first, *rest) if line != "data: [DONE]"]
        assert deltas[-1]["finish_reason"] == "stop"
        assert deltas[-1]["usage"]["completion_tokens"] >= 60
        assert fake.process.wait(HANG_S) == 0


def test_weights_of_this_machine(podman: Podman, tmp_path: Path) -> None:
    """A file is read where it lies; what is imported in there is there outside too."""
    (tmp_path / "my models").mkdir()
    path = tmp_path / "my models" / "small; $(echo x).gguf"
    path.write_bytes(TINY.read_bytes())
    with running(podman, tmp_path, [f"small=llama@{path.relative_to(tmp_path)}"]) as contained:
        assert contained.chat().json()["model"] == "small"
        with pytest.raises(subprocess.CalledProcessError):
            contained.inside("rm", str(path))
    assert path.exists()


def test_without_the_command(podman: Podman) -> None:
    """An image is an image: `podman run` with nothing but a port."""
    port = free_port()
    name = f"open-llm-server-{port}"
    words = ["run", "--rm", "--detach", "--read-only", "--name", name]
    podman(*words, "--publish", f"127.0.0.1:{port}:5000", IMAGE)
    try:
        deadline = time.monotonic() + HANG_S
        while time.monotonic() < deadline:
            try:
                answer = httpx.post(
                    f"http://127.0.0.1:{port}/chat", json={"prompt": "Hi"}, timeout=HANG_S
                )
                break
            except httpx.TransportError:
                time.sleep(0.1)
        assert answer.status_code == 200 and answer.json()["model"] == "tiny"
        foreign = httpx.get(
            f"http://127.0.0.1:{port}/v1/models", headers={"Host": "evil.example"}, timeout=HANG_S
        )
        assert foreign.status_code == 403, "pages of other sites do not get in by a name"
    finally:
        podman("stop", name)


def test_it_hears_signals_from_the_first_moment(podman: Podman) -> None:
    name = f"open-llm-server-{free_port()}"
    podman("run", "--detach", "--read-only", "--name", name, IMAGE, "start", "fake")
    try:
        podman("kill", "--signal", "TERM", name)
        code = int(podman("wait", name))
        assert code in (0, 143)
    finally:
        podman("rm", "--force", name)
