"""Everything that the README and the page on families show is done here, as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import checkpoints
import httpx
import peft
import pytest
from fake_hub import FakeHub
from running import HANG_S, Serve, StartServer
from shells import Person
from transformers import AutoModelForCausalLM

from open_llm_server.engine.torch_quiet import quiet
from open_llm_server.extras import TORCH

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
FAMILIES = (ROOT / "docs" / "families.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(README)
LINES = [
    line.split("  #")[0].strip()
    for language, text in [*BLOCKS, *BLOCK.findall(FAMILIES)]
    if language == "bash"
    for line in text.splitlines()
    if line.strip()
]
CURLS = [line for line in LINES if line.startswith("curl ")]
STARTS = [line for line in LINES if line.startswith("open-llm-server start ")]
PERPLEXITIES = [line for line in LINES if line.startswith("open-llm-server perplexity ")]
IMPORTS = [line for line in LINES if line.startswith("open-llm-server import ")]
FITS = [line for line in LINES if line.startswith("open-llm-server fit ")]
QUERIES = [line for line in LINES if "open-llm-server query" in line]
TALK = "open-llm-server chat"
DOCTOR = "open-llm-server doctor"
CONTAINED = [line for line in LINES if "run-container" in line or line.startswith("podman ")]
"""tests/containers does these."""
CONFIGS = [line for line in LINES if "open-llm-server config" in line]
PYTHON = {text.split()[1]: text for language, text in BLOCKS if language == "python"}
TINY = ROOT / "models" / "tiny" / "tiny-q8_0.gguf"
MAKERS = {
    "flan-t5-base": checkpoints.make_t5,
    "bloomz-560m": checkpoints.make_bloom,
    "dolly-v2-3b": checkpoints.make_dolly,
    "stablelm-2-chat": checkpoints.make_stablelm,
    "pythia-160m": checkpoints.make_gpt_neox,
}
"""What the pages call a checkpoint, and what makes a small one of its kind."""
HUB = {"google/flan-t5-base": "flan-t5-base", "EleutherAI/pythia-160m": "pythia-160m"}
"""What the pages fetch from a hub, and which of those it is."""


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints under the names that the pages' commands have for them, and an adapter."""
    there = tmp_path_factory.mktemp("downloads")
    for name, make in MAKERS.items():
        make(there / name)
    (there / "all-MiniLM-L6-v2").symlink_to(checkpoints.real_minilm())
    with quiet():  # the newest libraries warn of each other
        model = AutoModelForCausalLM.from_pretrained(there / "pythia-160m")
        adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query_key_value"]))
    adapted.save_pretrained(str(there / "adapter"))
    return there


@pytest.fixture(scope="module")
def environment(
    downloads: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """A hub that has what is fetched, a store for it, and this virtual environment's commands."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPEN_LLM_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with FakeHub() as hub:
        for model, name in HUB.items():
            hub.add(model, {file.name: file.read_bytes() for file in (downloads / name).iterdir()})
        home = tmp_path_factory.mktemp("home")
        own = {"PATH": path, "BENTOML_HOME": str(home / "bentoml"), "HF_HUB_OFFLINE": "0"}
        yield {**kept, **hub.environment(home), **own}


@pytest.fixture
def folder(tmp_path: Path, downloads: Path) -> Path:
    """A folder with the files that the pages' commands name."""
    for download in downloads.iterdir():
        (tmp_path / download.name).symlink_to(download)
    (tmp_path / "text.txt").write_text("The soup is hot. Nobody knows why.\n" * 40)
    for name in ("model-q4_k_m.gguf", "small.gguf", "vicuna.gguf"):
        shutil.copyfile(TINY, tmp_path / name)
    (tmp_path / "system.txt").write_text("Be brief.")
    (yaml,) = [text for language, text in BLOCKS if language == "yaml"]
    (tmp_path / "default.yaml").write_text(yaml)
    return tmp_path


def test_every_command_of_the_readme_is_known_here() -> None:
    known = [*CURLS, *STARTS, *CONFIGS, *PERPLEXITIES, *IMPORTS, *FITS, *QUERIES, *CONTAINED]
    known += [TALK, DOCTOR]
    # These two are how this very test was started, or would start all over again.
    rest = [line for line in LINES if line not in known and not line.startswith("make ")]
    assert rest == []
    targets = {line.split()[1] for line in LINES if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert IMPORTS and FITS and len(QUERIES) == 2 and {TALK, DOCTOR} <= {*LINES} and CONTAINED
    assert len(CURLS) >= 8 and len(STARTS) >= 9 and len(CONFIGS) == 1 and len(PERPLEXITIES) == 3
    assert set(PYTHON) == {"openai", "open_llm_client", "open_llm_server", "bentoml"}


def test_what_to_install() -> None:
    """The errors say it as the pages do, and the extra brings what is asked for then."""
    assert TORCH.command in README and TORCH.command in FAMILIES
    project = (ROOT / "pyproject.toml").read_text()
    (extra,) = re.findall(r"^torch = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    for package in ("torch", "transformers", "safetensors", "peft", "accelerate"):
        assert f'"{package}>=' in extra


@pytest.mark.server
def test_the_curl_lines(server: StartServer, downloads: Path) -> None:
    sources = {
        "flan-t5": "flan-t5-base",
        "pythia": "pythia-160m",
        "minilm": "all-MiniLM-L6-v2",
    }
    others = [f"{name}@{downloads / source}" for name, source in sources.items()]
    running = server(",".join(["tiny", *others]))
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
def test_the_start_lines(line: str, folder: Path, environment: dict[str, str]) -> None:
    Person(folder, environment).starts(line)


@pytest.mark.weights
@pytest.mark.parametrize("line", PERPLEXITIES)
def test_the_perplexity_lines(line: str, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        shlex.split(line), cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout


@pytest.mark.weights
def test_the_import_fit_and_doctor_lines(folder: Path, environment: dict[str, str]) -> None:
    for line in [*IMPORTS, *FITS, f"{DOCTOR} --port 0"]:
        done = subprocess.run(
            shlex.split(line), cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_the_config_line(folder: Path, environment: dict[str, str]) -> None:
    for line in CONFIGS:
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "OPEN_LLM_TINY_TOP_K" in done.stdout
        assert "OPEN_LLM_STOP_SEQUENCE" in done.stdout


def test_the_yaml_file(folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["open-llm-server", "config", "--configuration", "default.yaml"],
        cwd=folder,
        env=environment,
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
def test_the_client_snippet_and_the_questions(
    server: StartServer, folder: Path, environment: dict[str, str]
) -> None:
    running = server("tiny", grpc_port=0)
    assert running.server.grpc_url
    for url in (running.url, running.server.grpc_url):
        code = PYTHON["open_llm_client"].replace("http://localhost:5000", url)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            check=True,
            capture_output=True,
            text=True,
            timeout=2 * HANG_S,
        )
        assert done.stdout.endswith("256\n") and len(done.stdout) > 20
        for line in [*QUERIES, f"echo Hello | {TALK}"]:
            done = subprocess.run(
                ["bash", "-c", line],
                cwd=folder,
                env={**environment, "OPEN_LLM_ENDPOINT": url},
                capture_output=True,
                text=True,
                timeout=HANG_S,
            )
            assert done.returncode == 0 and done.stdout.strip(), done.stderr


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
