"""A hub that falls silent, or nearly: it is given up, and nobody has to wait for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_hub import FakeHub, Fault

from open_llm_server.errors import DamagedDownload, HubUnavailable
from open_llm_server.store import hub, hub_work, progress
from open_llm_server.store.hub_http import Patience
from open_llm_server.store.progress import Meter, Progress

LONG = Patience(stall_s=10, connect_s=10, tries=1)
"""After which a test fails that should have ended long ago."""
HASTY = Patience(
    stall_s=0.2, slow_s=0.4, connect_s=0.2, tries=2, first_wait_s=0.01, longest_wait_s=0.01
)
SLOW = Fault("drip", times=None, rate=500)
FILES = {"model.gguf": bytes(1500), "config.json": b"{}"}


class Enough(Exception):
    pass


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(hub_work, "LOOK_EVERY_S", 0.02)
    with FakeHub() as running:
        running.use(monkeypatch, tmp_path / "home")
        running.add("org/name", FILES)
        yield running


def impatient() -> Meter:
    """Its listener has enough when it hears nothing new a few times."""
    heard: list[Progress] = []

    def listen(progress: Progress) -> None:
        heard.append(progress)
        if len(heard) > 3 and progress.done == heard[-3].done:
            raise Enough

    return Meter(listen)


def fetch(folder: Path, patience: Patience, meter: Meter | None = None) -> None:
    remote = hub.describe("org/name", None)
    hub.fetch(remote, remote.files, folder, meter or Meter(), patience=patience)


@pytest.mark.parametrize(
    ("at", "fault"),
    [
        ("bytes", Fault("mute")),
        ("bytes", Fault("stall", after=100)),
        ("resolve", Fault("mute")),
        ("resolve", Fault("babble")),
    ],
)
def test_a_listener_ends_a_download_of_which_nothing_comes(
    fake: FakeHub, tmp_path: Path, at: str, fault: Fault
) -> None:
    fake.fault("org/name", "model.gguf", replace(fault, times=None), at=at)
    with pytest.raises(Enough):
        fetch(tmp_path / "stage", LONG, impatient())
    fake._faults.clear()
    fetch(tmp_path / "stage", LONG)
    assert (tmp_path / "stage" / "model.gguf").read_bytes() == FILES["model.gguf"]


def test_a_listener_hears_that_nothing_comes(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SILENT_S", 0.1)
    fake.fault("org/name", "model.gguf", Fault("stall", times=None, after=100))
    notes = list[str]()
    meter = Meter(lambda told: notes.append(told.note))
    with pytest.raises(HubUnavailable):
        fetch(tmp_path / "stage", replace(HASTY, stall_s=0.5), meter)
    silent = [note for note in notes if " is silent since " in note]
    assert silent and silent[0].startswith("127.0.0.1:")
    assert any("asked again" in note for note in notes)


def test_a_listener_ends_a_download_between_two_tries(fake: FakeHub, tmp_path: Path) -> None:
    fake.fault("org/name", "model.gguf", Fault("status", times=None))
    patience = Patience(tries=2, first_wait_s=10, longest_wait_s=10)
    with pytest.raises(Enough):
        fetch(tmp_path / "stage", patience, impatient())


@pytest.mark.parametrize(
    ("ask", "at", "kind"),
    [
        (lambda meter: hub.describe("org/name", None, patience=LONG, meter=meter), at, kind)
        for at, kind in (("describe", "mute"), ("describe", "babble"))
    ]
    + [(lambda meter: hub.describe("org/name", "mian", meter=meter), "refs", "mute")],
)
def test_a_listener_ends_a_question(
    fake: FakeHub, ask: Callable[[Meter], object], at: str, kind: str
) -> None:
    fake.fault("org/name", "", Fault(kind, times=None), at=at)  # type: ignore[arg-type]  # a Kind
    with pytest.raises(Enough):
        ask(impatient())


def test_a_listener_ends_a_question_between_two_tries(fake: FakeHub) -> None:
    fake.fault("org/name", "", Fault("status", times=None), at="describe")
    patience = Patience(tries=2, first_wait_s=10, longest_wait_s=10)
    with pytest.raises(Enough):
        hub.describe("org/name", None, patience=patience, meter=impatient())


def test_a_listener_ends_the_search_for_what_is_gone(fake: FakeHub, tmp_path: Path) -> None:
    """A hub that says no is asked what it has instead."""
    gone = Fault("status", status=404, headers={"X-Error-Code": "RevisionNotFound"})
    fake.fault("org/name", "model.gguf", gone, at="resolve")
    fake.fault("org/name", "", Fault("mute"), at="refs")
    with pytest.raises(Enough):
        fetch(tmp_path / "stage", LONG, impatient())


def test_a_hub_that_hardly_sends_is_given_up(fake: FakeHub, tmp_path: Path) -> None:
    """Each byte in time, the file never: without a least rate it came after seconds here."""
    fake.fault("org/name", "model.gguf", SLOW)
    with pytest.raises(HubUnavailable, match="sends less than 1024 bytes a second"):
        fetch(tmp_path / "stage", HASTY)
    remote = hub.describe("org/name", None)
    assert hub.already(remote.files, tmp_path / "stage") > len(FILES["config.json"])
    fetch(tmp_path / "stage", replace(HASTY, least_rate=10))


def test_a_head_that_never_ends_is_given_up(fake: FakeHub, tmp_path: Path) -> None:
    endless = Fault("babble", times=None)
    fake.fault("org/name", "model.gguf", endless, at="resolve")
    with pytest.raises(HubUnavailable, match="does not come to an answer"):
        fetch(tmp_path / "stage", HASTY)
    fake.fault("org/name", "", endless, at="describe")
    with pytest.raises(HubUnavailable, match="does not come to an answer"):
        hub.describe("org/name", None, patience=HASTY)


def test_a_listing_that_hardly_comes_is_given_up(fake: FakeHub) -> None:
    fake.fault("org/name", "", SLOW, at="describe")
    with pytest.raises(HubUnavailable, match="sends less than"):
        hub.describe("org/name", None, patience=HASTY)


def test_a_slow_file_that_came_whole_is_taken(fake: FakeHub, tmp_path: Path) -> None:
    fake.add("org/name", {"model.gguf": bytes(300)})
    fake.fault("org/name", "model.gguf", SLOW)
    fetch(tmp_path / "stage", replace(HASTY, slow_s=0, tries=100))
    assert (tmp_path / "stage" / "model.gguf").read_bytes() == bytes(300)


@pytest.mark.parametrize(
    ("name", "refused"), [("Content-Range", DamagedDownload), ("Content-Length", HubUnavailable)]
)
def test_numbers_without_end_are_no_numbers(
    fake: FakeHub, tmp_path: Path, name: str, refused: type[Exception]
) -> None:
    long = "9" * 5000
    value = f"bytes {long}-{long}/{long}" if name == "Content-Range" else long
    lie = Fault("status", times=None, status=206, headers={name: value})
    fake.fault("org/name", "model.gguf", lie)
    with pytest.raises(refused):
        fetch(tmp_path / "stage", HASTY)
