"""A Bento of several models: what is in it, and that a container's way of serving it works."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from bentos import served, shell, text_files, until
from running import HANG_S
from shells import Person

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "models" / "tiny" / "tiny-q8_0.gguf"
SECRET = "key-of-the-house"
PROMPT = "Be brief; $(touch made) `touch made`"
pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Person, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("made")
    shutil.copyfile(TINY, folder / "a,b.gguf")
    person = Person(folder, {"OPEN_LLM_API_KEY": SECRET})
    (folder / "default.yaml").write_text("defaults: {temperature: 0.0}\nserver: {port: 5001}\n")
    (folder / "prompt.txt").write_text(PROMPT)
    said, _ = person.do(
        "build 'Mine=llama@./a\\,b.gguf' fake --with-weights --name harbour --tag v1 --json "
        "--configuration default.yaml --set fake.reply_tokens=3 --prompt prompt.txt "
        "--device fake:gpu:0"
    )
    (folder / "a,b.gguf").unlink()
    built: dict[str, Any] = json.loads(said)
    return person, built


def test_what_it_says(made: tuple[Person, dict[str, Any]]) -> None:
    _, built = made
    assert built["tag"] == "harbour:v1"
    assert [model["name"] for model in built["models"]] == ["Mine", "fake"]
    assert built["weights"][0]["bytes"] == TINY.stat().st_size
    assert built["settings"]["fake"] == {
        "temperature": 0.0,
        "prompt": PROMPT,
        "reply_tokens": 3,
        "device": "gpu:0",
    }
    assert [line.partition(":")[0] for line in built["left_out"]] == ["port", "api_key, a secret"]


def test_what_is_in_it(made: tuple[Person, dict[str, Any]]) -> None:
    """Weights only where BentoML keeps models; no key anywhere, no path of this machine."""
    person, built = made
    folder = Path(built["folder"])
    assert [path.name for path in folder.rglob("*.gguf")] == [TINY.name]
    text = text_files(folder)
    assert SECRET not in text
    assert str(person.folder) not in text
    assert not [*folder.rglob("__pycache__")]
    needed = (folder / "env/python/requirements.txt").read_text()
    assert "llama-cpp-python==" in needed
    assert "torch" not in needed
    assert "open-llm" not in needed


def test_nothing_of_ours_becomes_a_line_of_the_dockerfile(
    made: tuple[Person, dict[str, Any]],
) -> None:
    folder = Path(made[1]["folder"])
    for name in ("env/docker/Dockerfile", "env/python/install.sh"):
        text = (folder / name).read_text().lower()
        assert "bento" in text
        for word in ("harbour", "mine", "fake", "open-llm", "touch made", "be brief"):
            assert word not in text


def test_it_serves_as_in_a_container(made: tuple[Person, dict[str, Any]], tmp_path: Path) -> None:
    """There the Bento is a folder with its models in it, and BentoML's home is empty."""
    person, built = made
    shell(f"bentoml export harbour:v1 {tmp_path}/made.tar", tmp_path, person.environment)
    with tarfile.open(tmp_path / "made.tar") as archive:
        archive.extractall(tmp_path / "bento", filter="data")
    environment = {
        **Person(tmp_path, {}).environment,
        "BENTOML_CONTAINERIZED": "true",
        "OPEN_LLM_DEVICE": "cpu",
        "OPEN_LLM_MINE_TEMPERATURE": "0.5",
        "OPEN_LLM_API_KEY": "another",
    }
    line = f"bentoml serve {tmp_path}/bento --host 127.0.0.1 --port 3000 --api-workers 1"
    with served(line, tmp_path, environment) as url:
        assert httpx.post(f"{url}/chat", json={"prompt": "Hi"}, timeout=HANG_S).status_code == 401
        key = {"Authorization": "Bearer another"}
        used = {}
        for model in ("Mine", "fake"):
            answer = httpx.post(
                f"{url}/chat", json={"prompt": "Hi", "model": model}, headers=key, timeout=HANG_S
            )
            assert answer.status_code == 200, answer.text
            used[model] = answer.json()
        assert used["Mine"]["configuration"]["temperature"] == 0.5
        assert used["Mine"]["configuration"]["prompt"] == PROMPT
        assert len(used["fake"]["message"].split()) == 3
        assert used["fake"]["configuration"]["temperature"] == 0.0
        assert _files_of("olm-mine-0", tmp_path / "bento" / "models")
    assert built["tag"] == "harbour:v1"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("OPEN_LLM_MODELS", "tiny", "this Bento serves what it was built for"),
        ("OPEN_LLM_TEMPERATUR", "1", "did you mean 'OPEN_LLM_TEMPERATURE'"),
        ("BENTOML_HOME", "", "`bentoml import`, which take them along"),
    ],
)
def test_what_keeps_it_from_serving_is_said_in_a_line(
    made: tuple[Person, dict[str, Any]], tmp_path: Path, variable: str, value: str, says: str
) -> None:
    person, built = made
    environment = {
        **Person(tmp_path, {}).environment,
        "BENTOML_HOME": str(person.home),
        "OPEN_LLM_DEVICE": "cpu",
        variable: value or str(tmp_path / "empty"),
    }
    done = subprocess.run(
        ["bentoml", "serve", built["folder"], "--host", "127.0.0.1", "--port", "0"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 1
    assert says in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def _files_of(runner: str, folder: Path) -> bool:
    """Whether the runner has mapped a file from under `folder`."""
    for process in psutil.Process().children(recursive=True):
        if runner in process.cmdline():
            return any(Path(seen.path).is_relative_to(folder) for seen in process.memory_maps())
    return False


def test_weights_of_a_hub_stay_there_unless_told(tmp_path: Path) -> None:
    said = json.loads(Person(tmp_path, {}).do("build flan-t5 --json")[0])
    (model,) = said["models"]
    assert model["source"] == "google/flan-t5-base"
    assert model["weights"] is None
    needed = (Path(said["folder"]) / "env/python/requirements.txt").read_text()
    assert "transformers" in needed
    assert "llama-cpp" not in needed


@pytest.fixture
def hears_hangups() -> Iterator[None]:
    """As programs do that nohup did not start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.usefixtures("hears_hangups")
def test_a_signal_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    person = Person(tmp_path, {"TMPDIR": str(scratch)})
    with person.begin("open-llm-server build tiny --tag v1") as process:
        try:
            until(lambda: bool([*person.home.glob("tmp/*")]) or process.poll() is not None)
            process.send_signal(number)
            said = process.communicate(timeout=HANG_S)
        finally:
            process.kill()
    assert process.returncode == 128 + number, said
    assert not [*scratch.iterdir(), *person.home.glob("tmp/*"), *person.home.glob("bentos/*/*")]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (f"llama@{TINY}", 2, "--with-weights"),
        ("tiny --name 'a\nRUN touch made'", 2, "--name"),
        ("flan-t5 --with-weights", 1, "HF_HUB_OFFLINE"),
    ],
)
def test_refusals_name_the_way_out(tmp_path: Path, words: str, code: int, says: str) -> None:
    person = Person(tmp_path, {})
    _, error = person.do(f"build {words}", code=code)
    assert error.splitlines()[-1].startswith("error: ")
    assert says in error
    assert not (person.home / "bentos").exists()
