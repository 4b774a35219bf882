"""Whether a model is what was imported, byte by byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storing import import_folder, write_source

from open_llm_server.store import catalog
from open_llm_server.store.manifest import NAME, Entry, read
from open_llm_server.store.progress import Meter, Progress
from open_llm_server.store.verify import verify

SIZE = 300


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    return import_folder(write_source(tmp_path / "source", size=SIZE, files=3))


def test_a_whole_model_has_no_faults(entry: Entry) -> None:
    heard: list[Progress] = []
    assert verify(entry, Meter(heard.append)) == []
    assert {progress.phase for progress in heard} == {"checking"}
    assert (heard[-1].done, heard[-1].total) == (3 * SIZE, 3 * SIZE)


@given(st.sampled_from(["0.gguf", "2.gguf", "inner/1.json"]), st.integers(0, 8 * SIZE - 1))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_flipped_bit_is_found_even_with_its_time_restored(
    entry: Entry, name: str, bit: int
) -> None:
    path = entry.folder / name
    facts, content = path.stat(), path.read_bytes()
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert catalog.untouched(entry) is None
    faults = verify(entry, Meter())
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert len(faults) == 1
    assert faults[0].startswith(f"{name}: its content has changed")


def test_every_fault_is_named(entry: Entry) -> None:
    (entry.folder / "0.gguf").unlink()
    (entry.folder / "2.gguf").write_bytes(b"short")
    (entry.folder / "extra.py").touch()
    (entry.folder / "model.yaml").unlink()
    assert verify(entry, Meter()) == [
        "0.gguf: missing",
        f"2.gguf: 5 bytes instead of {SIZE}",
        "extra.py: does not belong to the model",
        "model.yaml: missing",
    ]


def test_right_files_with_other_times_are_taken_again(entry: Entry) -> None:
    for path in entry.folder.rglob("*"):
        os.utime(path, ns=(1, 1))
    assert catalog.untouched(entry) is not None
    assert verify(entry, Meter()) == []
    assert catalog.untouched(Entry(entry.folder, read(entry.folder))) is None


def test_a_manifest_that_changed_meanwhile_stays(entry: Entry) -> None:
    for path in entry.folder.rglob("*"):
        os.utime(path, ns=(1, 1))
    stale = entry.manifest.files[0].model_copy(update={"mtime_ns": 7})
    files = (stale, *entry.manifest.files[1:])
    newer = entry.manifest.model_copy(update={"files": files, "licence": "mit"})

    def replaced(_: Progress) -> None:
        (entry.folder / NAME).write_text(newer.model_dump_json())

    assert verify(entry, Meter(replaced)) == []
    assert read(entry.folder) == newer


def test_a_revision_noted_meanwhile_stays(entry: Entry) -> None:
    for path in entry.folder.rglob("*"):
        os.utime(path, ns=(1, 1))
    noted = entry.manifest.model_copy(update={"asked_since": {"v1": entry.manifest.imported_at}})

    def note(_: Progress) -> None:
        (entry.folder / NAME).write_text(noted.model_dump_json())

    assert verify(entry, Meter(note)) == []
    found = read(entry.folder)
    assert found.asked_since == noted.asked_since
    assert catalog.untouched(Entry(entry.folder, found)) is None
