"""What is found in the store, and what is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from storing import import_folder, later, write_source

from open_llm_server.config.models import Source
from open_llm_server.errors import WeightsError
from open_llm_server.store import catalog
from open_llm_server.store.manifest import NAME, Entry, Quantised

COMMIT = "0123456789abcdef0123456789abcdef01234567"
QUANTISED = Quantised(
    scheme="q8_0",
    original=(),
    bytes_before=2,
    bytes_after=1,
    perplexity_before=None,
    perplexity_after=None,
)

Add = Callable[..., Entry]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Imports one small model as `tag`, with these facts."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    source = write_source(tmp_path / "source", size=100, files=2)

    def add(tag: str, hour: float = 0, **facts: Any) -> Entry:
        return import_folder(source, tag=tag, imported_at=later(hour), **facts)

    return add


def hub(text: str) -> Source:
    return Source.parse(f"hub:{text}")


def test_an_empty_store_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "none"))
    assert catalog.entries() == []
    assert catalog.broken() == []
    assert catalog.find(hub("org/name"), "gguf") is None
    with pytest.raises(WeightsError, match="open-llm-server import"):
        catalog.get("name")
    assert not (tmp_path / "none").exists()


def test_the_newest_comes_first(add: Add) -> None:
    for hour, tag in enumerate(["b:1", "a:2", "b:0"]):
        add(tag, hour)
    assert [str(entry.tag) for entry in catalog.entries()] == ["b:0", "a:2", "b:1"]
    assert str(catalog.get("b").tag) == "b:0"
    assert str(catalog.get("b:1").tag) == "b:1"


def test_an_unknown_tag_is_answered_with_what_may_be_meant(add: Add) -> None:
    add("google--flan-t5-base:0123")
    with pytest.raises(WeightsError, match="did you mean 'google--flan-t5-base'"):
        catalog.get("google--flan-t5-bas")
    with pytest.raises(WeightsError, match="google--flan-t5-base:0123"):
        catalog.get("google--flan-t5-base:0124")


def test_a_hub_id_is_found_by_location_file_and_weights(add: Add) -> None:
    add("one:1", 1, kind="hub", location="org/name", commit=COMMIT)
    add("one:2", 2, kind="hub", location="org/name", file="q4.gguf", commit=COMMIT)
    add("two:1", 3, kind="hub", location="org/name", weights="folder", commit=COMMIT)
    add("three:1", 4, kind="path", location="org/name")

    def tag(source: str, weights: Any = "gguf") -> str | None:
        found = catalog.find(hub(source), weights)
        return str(found.tag) if found else None

    assert tag("org/name") == "one:1"
    assert tag("org/name#q4.gguf") == "one:2"
    assert tag("org/name#q8.gguf") is None
    assert tag("org/name", "folder") == "two:1"
    assert tag("org/other") is None
    assert catalog.find(Source(kind="path", location="org/name"), "gguf") is None


@pytest.mark.parametrize(
    ("asked", "is_there"),
    [
        ("main", True),
        (COMMIT, True),
        (COMMIT[:7], True),
        (COMMIT[:7].upper(), True),
        (COMMIT[:6], False),
        ("v2", False),
        ("1" * 40, False),
    ],
)
def test_a_revision_is_the_one_asked_for_or_its_commit(
    add: Add, asked: str, is_there: bool
) -> None:
    add("one:1", kind="hub", location="org/name", revision="main", commit=COMMIT)
    found = catalog.find(hub(f"org/name:{asked}"), "gguf")
    assert (found is not None) is is_there


def test_damaged_and_renamed_models_are_left_out_and_named(add: Add) -> None:
    whole, damaged, renamed = add("a:1"), add("b:1"), add("c:1")
    (damaged.folder / NAME).write_text("{")
    renamed.folder.rename(renamed.folder.with_name("2"))
    foreign = whole.folder.with_name("foreign")
    foreign.mkdir()
    assert [str(entry.tag) for entry in catalog.entries()] == ["a:1"]
    assert catalog.broken() == [damaged.folder, renamed.folder.with_name("2")]


def test_what_was_changed_shows_at_a_glance(add: Add) -> None:
    entry = add("a:1")
    assert catalog.untouched(entry) is None
    path = entry.folder / "0.gguf"
    content = path.read_bytes()
    facts = path.stat()

    path.write_bytes(content)
    assert catalog.untouched(entry) == "0.gguf was written to since it was imported"
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert catalog.untouched(entry) is None
    path.write_bytes(content[:-1])
    assert catalog.untouched(entry) == "0.gguf has 99 bytes instead of 100"
    path.unlink()
    assert (catalog.untouched(entry) or "").startswith("0.gguf cannot be read")


def test_what_a_newer_release_wrote_is_whole_and_not_for_us(add: Add) -> None:
    mine, later_one = add("a:1"), add("a:2", 1)
    path = later_one.folder / NAME
    path.write_text(path.read_text().replace('"format": 1', '"format": 2, "more": []'))
    assert catalog.entries() == [mine]
    assert (catalog.broken(), catalog.newer()) == ([], [later_one.folder])
    with pytest.raises(WeightsError, match=r"a:2 was written by a newer release.*: update"):
        catalog.get("a:2")
    with pytest.raises(WeightsError, match="newer release"):
        catalog.refuse_newer(later_one.tag)
    assert catalog.get("a") == mine


@pytest.mark.parametrize("number", ["0", "-1", '"2"', "1.5", "null", "[]"])
def test_a_format_that_never_was_is_damage(add: Add, number: str) -> None:
    path = add("a:1").folder / NAME
    path.write_text(path.read_text().replace('"format": 1', f'"format": {number}'))
    assert (catalog.broken(), catalog.newer()) == ([path.parent], [])


def test_a_revision_alone_is_not_the_main_branch(add: Add) -> None:
    entry = add("one:1", kind="hub", location="org/name", revision="v2", commit=COMMIT)
    assert catalog.find(hub("org/name"), "gguf") is None
    assert catalog.find(hub("org/name:main"), "gguf") is None
    assert catalog.find(hub("org/name:v2"), "gguf") == entry


def test_what_was_asked_for_last_counts(add: Add) -> None:
    since = {"v1": later(5), "main": later(5)}
    old = add("one:1", 1, kind="hub", location="org/name", commit=COMMIT, asked_since=since)
    new = add("one:2", 2, kind="hub", location="org/name", commit="1" * 40)
    assert catalog.find(hub("org/name"), "gguf") == old
    assert catalog.find(hub("org/name:v1"), "gguf") == old
    assert catalog.find(hub(f"org/name:{'1' * 7}"), "gguf") == new


def test_what_was_imported_by_a_name_comes_first_under_that_name(add: Add) -> None:
    small = add("small:1", 1, kind="hub", location="org/name", commit=COMMIT)
    new = add("org--name:2", 2, kind="hub", location="org/name", commit="1" * 40)
    assert catalog.find(hub("org/name"), "gguf") == new
    assert catalog.find(hub("org/name"), "gguf", "small") == small
    assert catalog.find(hub("org/name"), "gguf", "other") == new
    assert catalog.find(hub(f"org/name:{'1' * 40}"), "gguf", "small") == new


def test_the_only_file_has_a_name_too(add: Add) -> None:
    entry = add("one:1", kind="hub", location="org/name", main="a.gguf", commit=COMMIT)
    assert catalog.find(hub("org/name#a.gguf"), "gguf") == entry
    assert catalog.find(hub("org/name#b.gguf"), "gguf") is None


def test_a_smaller_copy_is_started_under_its_own_name_only(add: Add) -> None:
    facts = {"kind": "hub", "location": "org/name", "commit": COMMIT}
    small = add("small:1", 9, quantised=QUANTISED, **facts)
    assert catalog.find(hub("org/name"), "gguf", "small") == small
    for name in (None, "llama", "other"):
        assert catalog.find(hub("org/name"), "gguf", name) is None
    alias = add("fast:1", 1, **facts)
    for name in (None, "llama", "other"):
        assert catalog.find(hub("org/name"), "gguf", name) == alias, "the same bytes"
    own = add("org--name:1", 0, **facts)
    for name in (None, "llama", "other"):
        assert catalog.find(hub("org/name"), "gguf", name) == own, "as old as it is"
    assert catalog.find(hub("org/name"), "gguf", "fast") == alias
    mine = add("org--name:1-q8_0", 3, quantised=QUANTISED, **facts)
    assert catalog.find(hub("org/name"), "gguf", "other") == mine, "asked for under that name"


def test_a_revision_that_a_name_lacks_is_looked_for_under_the_others(add: Add) -> None:
    add("small:1", 1, kind="hub", location="org/name", commit=COMMIT)
    other = add("fast:2", 2, kind="hub", location="org/name", commit="1" * 40, revision="v2")
    own = add("org--name:3", 3, kind="hub", location="org/name", commit="2" * 40, revision="v3")
    assert catalog.find(hub("org/name:v2"), "gguf", "small") == other
    assert catalog.find(hub("org/name:v3"), "gguf", "small") == own
