"""Everything that the README shows is done here, as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from running import HANG_S, Serve, StartServer

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(README)
LINES = [
    line.split("  #")[0].strip()
    for language, text in BLOCKS
    if language == "bash"
    for line in text.splitlines()
    if line.strip()
]
CURLS = [line for line in LINES if line.startswith("curl ")]
STARTS = [line for line in LINES if line.startswith("open-llm-server start ")]
CONFIGS = [line for line in LINES if "open-llm-server config" in line]
PYTHON = {text.split()[1]: text for language, text in BLOCKS if language == "python"}
TINY = ROOT / "models" / "tiny" / "tiny-q8_0.gguf"
# The commands of this virtual environment, found first.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("OPEN_LLM_")},
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the README's commands name."""
    for name in ("model-q4_k_m.gguf", "small.gguf", "vicuna.gguf"):
        shutil.copyfile(TINY, tmp_path / name)
    (tmp_path / "system.txt").write_text("Be brief.")
    (yaml,) = [text for language, text in BLOCKS if language == "yaml"]
    (tmp_path / "default.yaml").write_text(yaml)
    return tmp_path


def test_every_command_of_the_readme_is_known_here() -> None:
    known = [*CURLS, *STARTS, *CONFIGS]
    # These two are how this very test was started, or would start all over again.
    rest = [line for line in LINES if line not in known and not line.startswith("make ")]
    assert rest == []
    targets = {line.split()[1] for line in LINES if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert len(CURLS) >= 4 and len(STARTS) >= 5 and len(CONFIGS) == 1
    assert set(PYTHON) == {"openai", "open_llm_server", "bentoml"}


@pytest.mark.server
def test_the_curl_lines(server: StartServer) -> None:
    running = server("tiny")
    for line in CURLS:
        words = shlex.split(line.replace("localhost:5000", f"127.0.0.1:{running.port}"))
        done = subprocess.run(
            [*words, "--silent", "--show-error", "--fail-with-body", "--max-time", str(HANG_S)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "error" not in done.stdout.lower()[:80]


@pytest.mark.server
@pytest.mark.parametrize("line", STARTS)
def test_the_start_lines(line: str, folder: Path) -> None:
    process = subprocess.Popen(
        [*shlex.split(line), "--port", "0"],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watchdog = threading.Timer(2 * HANG_S, process.kill)
    watchdog.start()
    try:
        with process:
            url = first_url(process)
            assert httpx.get(f"{url}/readyz", timeout=HANG_S).status_code == 200
            process.send_signal(signal.SIGINT)
            process.communicate()
            assert process.returncode == 0
    finally:
        process.kill()
        watchdog.cancel()


def first_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    seen = []
    for line in process.stdout:
        seen.append(line)
        if found := re.search(r"https?://[\w.:\[\]]+", line):
            return found.group()
    raise AssertionError("".join(seen))


def test_the_config_line(folder: Path) -> None:
    for line in CONFIGS:
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "OPEN_LLM_TINY_TOP_K" in done.stdout
        assert "OPEN_LLM_STOP_SEQUENCE" in done.stdout


def test_the_yaml_file(folder: Path) -> None:
    done = subprocess.run(
        ["open-llm-server", "config", "--configuration", "default.yaml"],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"max_tokens +200 +default.yaml", done.stdout)


@pytest.mark.server
def test_the_openai_snippet(server: StartServer, capfd: pytest.CaptureFixture[str]) -> None:
    running = server("tiny")
    code = PYTHON["openai"].replace("http://localhost:5000", running.url)
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=2 * HANG_S)
    assert capfd.readouterr().out.strip()


@pytest.mark.server
def test_the_start_snippet(capfd: pytest.CaptureFixture[str]) -> None:
    code = PYTHON["open_llm_server"].replace("port=5001", "port=0")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=2 * HANG_S)
    assert "http://127.0.0.1:" in capfd.readouterr().out


@pytest.mark.server
def test_the_service_snippet(bentoml_serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PYTHON["bentoml"])
    answer = httpx.post(f"{bentoml_serve('mine:svc')}/ask", content="Hello", timeout=HANG_S)
    assert answer.status_code == 200, answer.text
    assert answer.text.strip()


@pytest.mark.server
def test_our_service_served_the_bento_way(bentoml_serve: Serve) -> None:
    url = bentoml_serve("open_llm_server.service:svc", OPEN_LLM_MODELS="tiny")
    answer = httpx.post(f"{url}/chat", json={"prompt": "Hello"}, timeout=HANG_S)
    assert answer.status_code == 200, answer.text
    assert answer.json()["message"]
