"""The command `doctor` as a person calls it: lines, colours, JSON, the hub, and its page."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import checkpoints
import pytest
from click.testing import CliRunner, Result
from fake_hub import FakeHub
from running import HANG_S
from shells import Person

from open_llm_server import doctor
from open_llm_server.cli import cli
from open_llm_server.doctor import CHECKS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "doctor.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
LINES = [
    line.split("  #")[0].strip()
    for language, text in BLOCKS
    if language == "bash"
    for line in text.splitlines()
]
T5 = "google/flan-t5-base"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as running:
        yield running


@pytest.fixture
def person(tmp_path: Path, hub: FakeHub) -> Person:
    t5 = checkpoints.make_t5(tmp_path / "made")
    hub.add(T5, {path.name: path.read_bytes() for path in t5.iterdir()})
    shutil.copy(ROOT / "models" / "tiny" / "tiny-q8_0.gguf", tmp_path / "model.gguf")
    return Person(tmp_path, {**hub.environment(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"})


def test_the_commands_of_the_page(person: Person, hub: FakeHub) -> None:
    assert len(LINES) == 6
    for line in LINES:
        asked = len(hub.requests)
        wrong = "TEMPRATURE" in line
        out = _at_a_shell(person, line, code=int(wrong))
        assert (len(hub.requests) > asked) == ("--network" in line), line
        if "--json" in line:
            assert json.loads(out)["starts"], line
        elif wrong:
            (shown,) = [text for language, text in BLOCKS if language == "text"]
            for part in shown.split("...\n"):
                assert part in out
        else:
            assert "nothing stands in the way of `start" in out, line


def _at_a_shell(person: Person, line: str, *, code: int) -> str:
    """As it stands on the page, but for the port, which others may have."""
    out = ""
    for command in line.split(" && "):
        words = shlex.split(command)
        setting = dict(word.split("=", 1) for word in words if word.startswith("OPEN_LLM_"))
        at = words.index("open-llm-server")
        port = ["--port", "0"] if words[at + 1] == "doctor" else []
        somebody = Person(person.folder, {**person.environment, **setting})
        out += somebody.do(shlex.join([*words[at + 1 :], *port]), code=code)[0]
    return out


def test_lines_in_a_pipe(person: Person) -> None:
    out, err = person.do("doctor tiny --port 0 --api-key geheim")
    assert err == ""
    assert "geheim" not in out
    assert "\x1b" not in out
    lines = out.splitlines()
    headings = [line for line in lines[:-2] if not line.startswith(" ")]
    assert headings == [title for title in CHECKS if title in headings]
    assert lines[-2] == ""
    assert lines[-1].endswith("nothing stands in the way of `start tiny`")
    for line in lines[:-2]:
        assert line in headings or re.match(r"  (ok     |note   |warning|       )  \S", line)


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only checks that start no process, for what is about words."""
    kept = ("Configuration", "Models and memory", "Store", "Ports")
    monkeypatch.setattr(doctor, "CHECKS", {title: CHECKS[title] for title in kept})


def called(*words: str, color: bool = False) -> Result:
    return CliRunner().invoke(cli, ["doctor", *words], standalone_mode=False, color=color)


@pytest.mark.usefixtures("light")
def test_colours() -> None:
    coloured = called("tinny", color=True)
    assert coloured.return_value == 1
    assert "\x1b[31mproblem\x1b[0m" in coloured.output
    assert "\x1b" not in called("tinny").output


@pytest.mark.usefixtures("light")
def test_names_that_would_act_on_a_terminal(tmp_path: Path) -> None:
    odd = tmp_path / "a\x1b[2Jb.gguf"
    odd.write_text("nonsense")
    result = called(f"llama@{odd}", "--port", "0")
    assert result.return_value == 1
    assert "a?[2Jb.gguf" in result.output
    assert "\x1b" not in result.output


def test_json(person: Person) -> None:
    out, err = person.do("doctor --port 0 --json")
    answer = json.loads(out)
    assert err == ""
    assert set(answer) == {"starts", "summary", "models", "findings"}
    assert answer["models"] == ["tiny"]
    for one in answer["findings"]:
        assert set(one) == {"group", "level", "subject", "says", "do"}
        assert one["group"] in CHECKS
        assert one["says"]
        assert one["do"] or one["level"] in ("ok", "note")
    subjects = {(one["group"], one["subject"]) for one in answer["findings"]}
    assert {("llama.cpp", "decode"), ("torch", "torch"), ("Ports", "HTTP")} <= subjects


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("door", ["variable", "file"])
def test_the_models_of_the_configuration(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if door == "file":
        (tmp_path / "server.yaml").write_text("models: [one=tiny, two=fake]\n")
        monkeypatch.setenv("OPEN_LLM_CONFIGURATION", str(tmp_path / "server.yaml"))
    else:
        monkeypatch.setenv("OPEN_LLM_MODELS", "one=tiny,two=fake")
    answer = json.loads(called("--port", "0", "--json").output)
    assert answer["models"] == ["one", "two"]
    assert answer["starts"]


@pytest.mark.usefixtures("light")
def test_models_that_are_named_nowhere_or_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.loads(called("--slots", "2", "--port", "0", "--json").output)
    assert answer["models"] == ["tiny"]
    assert "note" in {one["level"] for one in answer["findings"] if one["subject"] == "models"}
    (tmp_path / "server.yaml").write_text("models: [tinny]\n")
    wrong = called("--configuration", str(tmp_path / "server.yaml"), "--port", "0")
    assert wrong.return_value == 1
    assert "did you mean 'tiny'" in wrong.output
    monkeypatch.setenv("OPEN_LLM_PRT", "1")
    wrong = called()
    assert wrong.return_value == 1
    assert "OPEN_LLM_PRT" in wrong.output


@pytest.mark.parametrize("words", ["doctor tiny --port 0", "doctor --json --port 0", "models list"])
def test_an_output_that_takes_nothing(words: str, person: Person) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            ["open-llm-server", *words.split()],
            env=person.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=HANG_S,
        )
    assert done.returncode == 74
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: cannot write the output: No space left on device; ")


def test_who_is_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "llama_cpp.py").write_text("import time; time.sleep(60)")
    (tmp_path / "made").mkdir()
    environment = {"PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path / "made")}
    with Person(tmp_path, environment).begin("open-llm-server doctor tiny --port 0") as process:
        try:
            deadline = time.monotonic() + HANG_S
            while not [*(tmp_path / "made").glob("open-llm-doctor-*")]:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.terminate()
            _, said = process.communicate(timeout=HANG_S)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert said == ""
    assert [*(tmp_path / "made").iterdir()] == []


NETWORK = """
import dataclasses, json, sys
from open_llm_server import doctor_models, doctor_network
from open_llm_server.config.merge import resolve
from open_llm_server.doctor_finding import Case
found = []
for line in sys.argv[1:]:
    case = Case((line,), resolve([line]), network=True)
    here = doctor_models.check(dataclasses.replace(case, network=False))
    found.append([[one.level, one.says] for one in [*here[1:], *doctor_network.check(case)]])
print(json.dumps(found))
"""


def asked(person: Person, *lines: str) -> list[list[list[str]]]:
    """What is found of these models and of their hub: level and words of each."""
    done = subprocess.run(
        [sys.executable, "-c", NETWORK, *lines],
        env=person.environment,
        check=True,
        capture_output=True,
        timeout=HANG_S,
    )
    found: list[list[list[str]]] = json.loads(done.stdout)
    return found


def test_the_hub(person: Person, hub: FakeHub) -> None:
    tiny, there, nowhere = asked(person, "tiny", "flan-t5", "flan-t5@google/flan-t6")
    assert tiny[1:] == [["ok", f"{hub.url} answers"]]
    missing, _, (level, says) = there
    assert missing[0] == "note"
    assert level == "ok"
    assert says.endswith(f"to fetch of {T5}, and room for them")
    assert nowhere[2][0] == "problem"
    assert "google/flan-t6" in nowhere[2][1]


def test_a_hub_that_is_away(person: Person) -> None:
    away = {**person.environment, "HF_ENDPOINT": "http://127.0.0.1:1"}
    alone, beside = asked(Person(person.folder, away), "flan-t5", "tiny,flan-t5")
    assert alone[-1][0] == "problem"
    assert beside[-1][0] == "warning"


def test_the_checks_load_nothing_heavy_here() -> None:
    script = (
        "import sys\nfrom open_llm_server.cli import main\n"
        "try:\n    main(['doctor', 'tiny', '--port', '0'])\n"
        "except SystemExit as left:\n    assert not left.code\n"
        "heavy = {'torch', 'transformers', 'llama_cpp', 'bentoml', 'numpy', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=HANG_S)
