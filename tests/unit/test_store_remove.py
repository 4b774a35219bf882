"""What leaves the store, and what stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from storing import faults, import_folder, later, write_source

from open_llm_server.errors import WeightsError
from open_llm_server.store import catalog, manifest, places, remove
from open_llm_server.store.locking import held
from open_llm_server.store.manifest import Entry, FileRecord, Quantised
from open_llm_server.store.progress import Meter
from open_llm_server.store.stage import stage

Add = Callable[..., Entry]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Imports one small model as `tag`, with these facts."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    source = write_source(tmp_path / "source", size=5000, files=2)

    def add(tag: str, hour: float = 0, **facts: Any) -> Entry:
        return import_folder(source, **{"tag": tag, "imported_at": later(hour), **facts})

    return add


def tags() -> list[str]:
    return sorted(str(entry.tag) for entry in catalog.entries())


def break_off(key: str) -> Path:
    """An import that leaves its stage behind."""

    def begin() -> None:
        with stage(key, meter=Meter()) as staged:
            (staged.folder / "half.part").write_bytes(bytes(5000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin()
    return places.staging() / key


def test_a_model_goes_and_latest_follows(add: Add) -> None:
    first, second = add("a:1", 1), add("a:2", 2)
    remove.remove(second)
    assert tags() == ["a:1"]
    assert (places.models() / "a/latest").read_text() == "1"
    remove.remove(first)
    assert not [*places.models().iterdir()]
    assert not [*places.trash().iterdir()]


def test_what_is_open_stays_readable(add: Add) -> None:
    entry = add("a:1")
    with (entry.folder / "0.gguf").open("rb") as file:
        remove.remove(entry)
        assert len(file.read()) == 5000


def test_other_tools_models_stay(add: Add) -> None:
    entry = add("a:1")
    foreign = entry.folder.with_name("foreign")
    foreign.mkdir()
    remove.remove(entry)
    assert [*places.models().glob("*/*")] == [foreign]


def test_what_is_gone_or_elsewhere_is_refused(add: Add, tmp_path: Path) -> None:
    entry = add("a:1")
    remove.remove(entry)
    with pytest.raises(WeightsError, match="gone already"):
        remove.remove(entry)
    with pytest.raises(WeightsError, match="not in the store"):
        remove.remove(Entry(tmp_path, entry.manifest))


def test_a_damaged_model_can_be_removed(add: Add) -> None:
    (add("a:1").folder / manifest.NAME).write_text("{")
    remove.remove(catalog.broken()[0])
    assert not catalog.broken()


def test_nothing_left_over_is_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "none"))
    assert remove.leftovers() == []
    assert remove.prune() == []
    assert not (tmp_path / "none").exists()


def test_unfinished_imports_go_unless_somebody_is_at_them(add: Add) -> None:
    add("a:1")
    left = break_off("left")
    with stage("held", meter=Meter()) as other:
        (other.folder / "half.part").touch()
        found = remove.leftovers()
        assert [(item.path, item.kind) for item in found] == [(left, "unfinished")]
        assert found[0].bytes >= 5000
        assert remove.prune(found) == found
        assert [*places.staging().iterdir()] == [other.folder]
    assert tags() == ["a:1"]
    assert not faults()


def test_locks_of_killed_imports_go(add: Add) -> None:
    add("a:1")
    break_off("left")
    (places.locks() / "killed.lock").touch()
    with held("held"):
        remove.prune()
        assert [path.name for path in places.locks().iterdir()] == ["held.lock"]


def test_the_trash_goes(add: Add) -> None:
    add("a:1")
    (places.trash() / "b-1").mkdir()
    assert [item.kind for item in remove.prune()] == ["trash"]
    assert not [*places.trash().iterdir()]


def test_what_was_imported_again_goes(add: Add) -> None:
    def quantised(scheme: str) -> Quantised:
        record = FileRecord(path="0.gguf", bytes=1, sha256="0" * 64)
        return Quantised(
            scheme=scheme,
            original=(record,),
            bytes_before=2,
            bytes_after=1,
            perplexity_before=None,
            perplexity_after=None,
        )

    hub: dict[str, Any] = {"kind": "hub", "location": "org/name"}
    add("a:1", 1, **hub)
    add("a:2", 2, **hub)
    add("a:3", 3, **hub, quantised=quantised("q8_0"))
    add("a:4", 4, **hub, quantised=quantised("q4_k_m"))
    add("a:5", 5, **hub, revision="v1")
    add("a:6", 6, **hub, file="other.gguf")
    add("b:1", 7, **hub)
    assert [(item.kind, item.tag) for item in remove.leftovers()] == [("replaced", "a:1")]
    gone = remove.prune()
    assert [item.tag for item in gone] == ["a:1"]
    assert tags() == ["a:2", "a:3", "a:4", "a:5", "a:6", "b:1"]
    assert not faults()


def test_what_was_chosen_is_looked_at_again(add: Add) -> None:
    hub: dict[str, Any] = {"kind": "hub", "location": "org/name"}
    add("a:1", 1, **hub)
    newer = add("a:2", 2, **hub)
    chosen = remove.leftovers()
    remove.remove(newer)
    assert remove.prune(chosen) == []
    assert tags() == ["a:1"]


def test_what_a_revision_still_means_is_not_replaced(add: Add) -> None:
    hub: dict[str, Any] = {"kind": "hub", "location": "org/name"}
    add("a:1", 1, **hub, asked_since={"v1": later(1)})
    add("a:2", 2, **hub)
    assert remove.leftovers() == []
    add("a:3", 3, **hub, revision="v1")
    assert [item.tag for item in remove.leftovers()] == ["a:1"]


def test_what_a_newer_release_wrote_is_not_removed(add: Add) -> None:
    path = add("a:1").folder / manifest.NAME
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(WeightsError, match="newer release"):
        remove.remove(path.parent)
    assert remove.prune() == []
    assert path.exists() and (places.models() / "a/latest").read_text() == "1"
