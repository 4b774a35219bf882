"""What the README and docs/containers.md show of containers, done as it stands there.

With the image that is here in place of the one that is named, and free ports.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
import yaml
from podman_engine import IMAGE, ROOT, Podman, free_port
from running import HANG_S

README = (ROOT / "README.md").read_text()
PAGE = (ROOT / "docs" / "containers.md").read_text()
SECTION = README[README.index("## In a container") : README.index("## Configure")]
LINES = [
    line.split("  #")[0].strip()
    for block in re.findall(r"^```bash\n(.*?)^```", SECTION + PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
MAKES = [line for line in LINES if line.startswith("make images")]
BUILDS = [line for line in LINES if line.startswith("podman build ")]
RUNS = [line for line in LINES if line.startswith(("docker run ", "podman run "))]
DRY = [line for line in LINES if line.endswith(" --dry-run")]
OURS = [line for line in LINES if line.startswith("open-llm-server ") and line not in DRY]
OTHERS = [line for line in LINES if line.startswith(("kubectl ", "OPEN_LLM_API_KEY="))]
TINY = ROOT / "models" / "tiny" / "tiny-q8_0.gguf"


def test_every_line_is_known_here() -> None:
    assert sorted([*MAKES, *BUILDS, *RUNS, *DRY, *OURS, *OTHERS]) == sorted(LINES)
    assert len(MAKES) >= 4 and BUILDS and len(RUNS) >= 3 and DRY and len(OURS) >= 4


@pytest.mark.parametrize("line", [*MAKES, *BUILDS])
def test_builds(line: str, tmp_path: Path) -> None:
    """The engine is asked for what the page says; the images themselves are built by .ci/images."""
    record = tmp_path / "words"
    podman = tmp_path / "podman"
    podman.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {shlex.quote(str(record))}\n')
    podman.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [*shlex.split(line), *([f"PYTHON={sys.executable}"] if line in MAKES else [])],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "XDG_CACHE_HOME": str(tmp_path)},
        check=True,
        capture_output=True,
    )
    said = record.read_text().splitlines()
    target = "cuda" if "cuda" in line else "cpu"
    assert all(f"containers/Containerfile.{target}" in each for each in said)
    assert all((ROOT / f"containers/Containerfile.{target}").is_file() for each in said)
    variant = f"{target}-slim" if "llama-cpp" in line else target
    assert any(f"--tag openllm-server/tiny:{variant} " in each for each in said)
    for given in re.findall(r"BASE=\S+", line):
        assert all(f"--build-arg={given}" in each for each in said)


@pytest.mark.server
@pytest.mark.parametrize("line", RUNS)
def test_engines_own_commands(line: str, podman: Podman) -> None:
    port = free_port()
    name = f"open-llm-server-{port}"
    words = ["podman", *shlex.split(line)[1:]]
    images = [word for word in words if word.startswith("openllm-server/")]
    assert images[0].split(":")[0] == IMAGE.split(":")[0]
    words[words.index(images[0])] = IMAGE
    words = [word.replace("127.0.0.1:5000:", f"127.0.0.1:{port}:") for word in words]
    words = [f"{name}:/data" if word == "open-llm-server:/data" else word for word in words]
    podman(*words[1:2], "--detach", "--name", name, *words[2:])
    try:
        _answers(f"http://127.0.0.1:{port}")
    finally:
        podman("stop", name)
        podman("volume", "rm", "--force", name)


@pytest.mark.server
@pytest.mark.parametrize("line", OURS)
def test_our_command(line: str, podman: Podman, tmp_path: Path) -> None:
    shutil.copyfile(TINY, tmp_path / "model-q4_k_m.gguf")
    port = free_port()
    words = shlex.split(line)[1:]
    for option in ("--port", "--image"):
        if option in words:
            place = words.index(option)
            del words[place : place + 2]
    words += ["--port", str(port), "--image", IMAGE, "--container-engine", "podman"]
    process = subprocess.Popen(
        [sys.executable, "-m", "open_llm_server", *words],
        cwd=tmp_path,
        env=_environment(tmp_path, podman.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _answers(f"http://127.0.0.1:{port}")
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=HANG_S)
        assert process.returncode == 0, said
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("line", DRY)
def test_dry_runs(line: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "open_llm_server", *shlex.split(line)[1:]],
        cwd=tmp_path,
        env=_environment(tmp_path, {}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    engine = shlex.split(done.stdout)[0]
    assert engine == "podman" and "nvidia.com/gpu=0" in done.stdout


@pytest.mark.parametrize("line", OTHERS)
def test_files_of_others_commands(line: str) -> None:
    """They need a cluster, or compose; what they name is there."""
    words = shlex.split(line)
    if "--file" in words:
        compose = yaml.safe_load((ROOT / words[words.index("--file") + 1]).read_text())
        assert words[0].partition("=")[0] in compose["services"]["server"]["environment"]
    elif "--filename" in words:
        assert [*(ROOT / words[words.index("--filename") + 1]).glob("*.yaml")]
    else:
        text = (ROOT / "containers" / "kubernetes" / "deployment.yaml").read_text()
        assert words[:4] == ["kubectl", "create", "secret", "generic"]
        assert f"name: {words[4]}" in text and "key: api-key" in text
        assert words[5].startswith("--from-literal=api-key=")


def _environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    homes = {"BENTOML_HOME": str(folder / "store"), "HF_HOME": str(folder / "hub")}
    return {**os.environ, **homes, **more}


def _answers(url: str) -> None:
    deadline = time.monotonic() + 2 * HANG_S
    while time.monotonic() < deadline:
        try:
            answer = httpx.post(f"{url}/chat", json={"prompt": "Hello"}, timeout=HANG_S)
        except httpx.TransportError:
            time.sleep(0.1)
            continue
        if answer.status_code == 200:
            return
        assert answer.status_code == 503, answer.text
        time.sleep(0.1)
    pytest.fail(f"{url} never answered")
