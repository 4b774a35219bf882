"""`open-llm-server import` as a person uses it: on local files and a hub on loopback."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from fake_hub import FakeHub, Fault
from running import HANG_S
from shells import Person

from open_llm_server.cli_import import SCHEMES
from open_llm_server.store import quantise
from open_llm_server.store.importing import import_model
from open_llm_server.store.manifest import read

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "models" / "tiny" / "tiny-q8_0.gguf"
HUB_ID = "google/flan-t5-base"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a small checkpoint of flan-t5's kind."""
    folder = checkpoints.make_t5(tmp_path_factory.mktemp("flan-t5"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as running:
        yield running


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path, {})


@pytest.fixture
def online(tmp_path: Path, hub: FakeHub) -> Person:
    return Person(tmp_path, {**hub.environment(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"})


def start_line(said: str) -> str:
    return said.splitlines()[-1].removeprefix("start it: ")


def test_the_schemes() -> None:
    assert set(SCHEMES) == {scheme for schemes in quantise.SCHEMES.values() for scheme in schemes}


@pytest.mark.server
def test_a_local_file(person: Person) -> None:
    (person.folder / "my model.gguf").write_bytes(TINY.read_bytes())
    out, err = person.do("import 'llama@./my model.gguf'")
    tag = out.split()[1].rstrip(":")
    first, *_, last = out.splitlines()
    assert first == f"imported {tag}: 5.8 MB in 1 file"
    assert last == f"start it: open-llm-server start llama@store:{tag.partition(':')[0]}"
    assert f"folder:  {person.home / 'models' / tag.replace(':', '/')}" in out
    assert "copying 5.8 MB" in err and "\x1b" not in err
    again, _ = person.do("import 'llama@./my model.gguf'")
    assert again.startswith(f"{tag} is here already: 5.8 MB in 1 file")
    (person.folder / "my model.gguf").unlink()
    person.starts(start_line(out))


def test_one_model_at_a_time(person: Person) -> None:
    _, err = person.do("import one=llama@./a.gguf,two=llama@./b.gguf", code=2)
    assert "one model at a time" in err
    (person.folder / "a,b.gguf").write_bytes(TINY.read_bytes())
    out, _ = person.do(r"import 'llama@./a\,b.gguf'")
    assert out.startswith("imported a-b-")


def test_two_versions_of_one_name(person: Person) -> None:
    file = person.folder / "small.gguf"
    file.write_bytes(TINY.read_bytes())
    first = json.loads(person.do("import mine=llama@small.gguf --json")[0])
    assert first["imported"] and first["start"] == "open-llm-server start mine=llama@store:mine"
    content = bytearray(TINY.read_bytes())
    content[-1] ^= 1  # of a weight
    file.write_bytes(content)
    second = json.loads(person.do("import mine=llama@small.gguf --json")[0])
    assert second["start"] == first["start"] and second["tag"] != first["tag"]
    known = read(Path(first["folder"]))
    assert known.tag == first["tag"] and known.files[0].sha256 == first["files"][0]["sha256"]


def test_from_a_hub(online: Person, hub: FakeHub, checkpoint: dict[str, bytes]) -> None:
    commit = hub.add(HUB_ID, {**checkpoint, "README.md": b"x", "evil.py": b"x"}, licence="mit")
    out, err = online.do("import flan-t5")
    tag = f"google--flan-t5-base:{commit[:12]}"
    assert out.startswith(f"imported {tag}: ")
    assert start_line(out) == "open-llm-server start flan-t5" and "licence: mit" in out
    assert re.search(r"^downloading .* is done", err, re.MULTILINE)
    sent = hub.sent
    shown = json.loads(online.do("import flan-t5 --json")[0])
    assert (shown["imported"], shown["commit"], hub.sent) == (False, commit, sent)
    assert {file["checked"] for file in shown["files"]} == {"hub"}
    assert not {"README.md", "evil.py"} & {file["path"] for file in shown["files"]}
    listed, _ = online.do("models list --local")
    assert tag in listed and f"{HUB_ID}, commit {commit[:12]}" in listed


def test_an_older_revision_is_started_by_its_tag(
    online: Person, hub: FakeHub, checkpoint: dict[str, bytes]
) -> None:
    old = hub.add(HUB_ID, checkpoint)
    online.do("import flan-t5")
    hub.add(HUB_ID, {**checkpoint, "generation_config.json": b'{"_from_model_config": true}'})
    online.do("import flan-t5")
    out, _ = online.do(f"import flan-t5 --revision {old}")
    assert start_line(out) == f"open-llm-server start flan-t5@store:google--flan-t5-base:{old[:12]}"


def test_what_is_refused(online: Person, hub: FakeHub, checkpoint: dict[str, bytes]) -> None:
    for line, code, words in (
        ("import nosuchmodel", 2, "nosuchmodel"),
        ("import tiny", 2, "built in"),
        ("import flan-t5", 1, HUB_ID),
        ("import flan-t5 --quantize q8_0", 2, "int8"),
        ("import flan-t5 --quantize q3", 2, "q3"),
        ("import llama@./nowhere.gguf", 1, "nowhere.gguf"),
        ("import llama", 1, "weights: open-llm-server import llama@PATH.gguf"),
        ("import", 2, "missing argument"),
    ):
        out, err = online.do(line, code=code)
        assert out == "" and words in err, err
        assert "Traceback" not in err and err.splitlines()[-1].startswith("error: ")
    assert online.do("models list --local")[0].startswith("nothing is imported yet")


def test_who_only_waited_has_imported_nothing(
    online: Person, hub: FakeHub, checkpoint: dict[str, bytes]
) -> None:
    hub.add(HUB_ID, checkpoint)
    hub.fault(HUB_ID, "model.safetensors", Fault("drip", rate=100_000))
    with ExitStack() as stack:
        processes = []
        for phase in ("downloading", "waiting"):
            process = stack.enter_context(online.begin("open-llm-server import flan-t5 --json"))
            stack.callback(process.kill)
            assert process.stderr
            while not process.stderr.readline().startswith(phase):
                assert process.poll() is None
            processes.append(process)
        said = [json.loads(process.communicate(timeout=HANG_S)[0]) for process in processes]
    assert [one["imported"] for one in said] == [True, False]
    assert said[0]["folder"] == said[1]["folder"]


def test_a_hub_that_is_away(person: Person) -> None:
    _, err = person.do("import flan-t5", code=1)
    assert "HF_HUB_OFFLINE" in err


def test_ctrl_c_and_on(online: Person, hub: FakeHub, checkpoint: dict[str, bytes]) -> None:
    hub.add(HUB_ID, checkpoint)
    hub.fault(HUB_ID, "model.safetensors", Fault("drip", rate=100_000))
    with online.begin("open-llm-server import flan-t5") as process:
        try:
            deadline = time.monotonic() + HANG_S
            while not hub.asked("model.safetensors", "cdn") or hub.sent < 20_000:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=HANG_S)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "stopped; the same command goes on from here"
    assert online.do("import flan-t5")[0].startswith("imported ")


def test_from_python(
    hub: FakeHub, checkpoint: dict[str, bytes], tmp_path: Path, monkeypatch: Any
) -> None:
    hub.use(monkeypatch, tmp_path / "hf")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    commit = hub.add(HUB_ID, checkpoint)
    phases = []
    entry = import_model(f"mine=flan-t5@{HUB_ID}", listener=lambda told: phases.append(told.phase))
    assert str(entry.tag) == f"mine:{commit[:12]}"
    assert [*dict.fromkeys(phases)] == ["resolving", "downloading", "checking", "finishing"]
