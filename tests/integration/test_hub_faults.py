"""A hub that breaks off, falls silent or lies: the right file or an error, never a wrong file."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, Fault
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from open_llm_server.errors import DamagedDownload, HubUnavailable, WeightsError
from open_llm_server.store import hub, hub_file, hub_listing
from open_llm_server.store.hub_http import Patience
from open_llm_server.store.progress import Meter, Progress

HASTY = Patience(
    stall_s=10, connect_s=10, tries=3, first_wait_s=0.01, longest_wait_s=0.01, longest_order_s=1
)
HASTIER = replace(HASTY, stall_s=0.5)
LARGE, SMALL = "model.gguf", "tokenizer.json"
FILES = {LARGE: os.urandom(1_000_000), SMALL: os.urandom(200_000), "config.json": b"{}"}
TOTAL = sum(map(len, FILES.values()))
CERT, KEY = (str(Path(__file__).with_name("tls") / name) for name in ("cert.pem", "key.pem"))
PASSING = {
    "reset": [Fault("reset", after=100_000)],
    "reset at once": [Fault("reset")],
    "break": [Fault("close", after=100_000)],
    "many breaks": [Fault("close", after=n) for n in (1, 70_000, 0, 3, 0, 50_000, 1, 0, 1)],
    "stall": [Fault("stall", after=70_000)],
    "stall at once": [Fault("stall")],
    "408": [Fault("status", status=408)],
    "429": [Fault("status", status=429, headers={"Retry-After": "0"})],
    "429 without words": [Fault("status", status=429)],
    "429 with a date": [
        Fault("status", status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    ],
    "429 with nonsense": [Fault("status", status=429, headers={"Retry-After": "-1e9 soon"})],
    "500": [Fault("status", times=2, status=500)],
    "502": [Fault("status", status=502)],
    "503": [Fault("status", status=503, headers={"Retry-After": "1"})],
    "504": [Fault("status", status=504)],
    "too short": [Fault("short")],
    "too long": [Fault("long")],
    "a wrong bit": [Fault("flip", after=99_999)],
    "the first bit": [Fault("flip")],
    "no ranges": [Fault("close", after=70_000), Fault("whole")],
    "a wrong bit, resumed": [Fault("close", after=70_000), Fault("flip", after=150_000)],
    "shorter when resumed": [Fault("close", after=70_000), Fault("short")],
    "slow": [Fault("drip", rate=2_000_000)],
}
LASTING = {
    "reset": (Fault("reset"), "broke off"),
    "stall": (Fault("stall"), "fell silent"),
    "503": (Fault("status", status=503), "answered 503"),
    "429": (Fault("status", status=429), "answered 429"),
    "a long wait": (Fault("status", status=429, headers={"Retry-After": "3600"}), "wait 3600 s"),
}
DAMAGE = {
    "too short": (Fault("short"), "bytes, not"),
    "too long": (Fault("long"), "bytes, not"),
    "a wrong bit": (Fault("flip", after=1234), "hash is [0-9a-f]{40,}, not [0-9a-f]{40,}"),
}
REFUSALS = {
    "file:": (Fault("redirect", to="file:///etc/passwd"), "sends on to file:"),
    "no address": (Fault("redirect", to="http://[x"), "no address"),
    "404": (Fault("status", status=404), "that you may read"),
    "410": (Fault("status", status=410), "answered 410"),
}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as running:
        running.use(monkeypatch, tmp_path / "home")
        running.add("org/name", FILES)
        yield running


def lasting(fault: Fault) -> Fault:
    return replace(fault, times=None)


def heal(fake: FakeHub) -> None:
    fake._faults.clear()


def fetch(folder: Path, meter: Meter | None = None, *, name: str = "") -> None:
    """Fetches everything, and looks whether it is right. `name` is the fault's."""
    remote = hub.describe("org/name", None, patience=HASTY)
    patience = HASTIER if name.startswith("stall") else HASTY
    records = hub.fetch(remote, remote.files, folder, meter or Meter(), patience=patience)
    assert {r.path: r.sha256 for r in records} == {
        name: sha256(content).hexdigest() for name, content in FILES.items()
    }
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == FILES


def no_wrong_file(folder: Path) -> bool:
    return all(
        path.read_bytes() == FILES[path.name] for path in folder.glob("*.*") if path.is_file()
    )


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_waited_for(fake: FakeHub, tmp_path: Path, name: str) -> None:
    for path in (LARGE, SMALL):
        fake.fault("org/name", path, *(replace(fault) for fault in PASSING[name]))
    seen: list[Progress] = []
    fetch(tmp_path / "stage", Meter(seen.append), name=name)
    assert (seen[-1].done, seen[-1].total) == (TOTAL, TOTAL)


@pytest.mark.parametrize("status", [401, 403])
def test_an_address_that_ran_out_is_asked_for_anew(
    fake: FakeHub, tmp_path: Path, status: int
) -> None:
    fake.fault("org/name", LARGE, Fault("status", status=status))
    fetch(tmp_path / "stage")
    assert fake.asked(f"/{LARGE}")["GET"] == 2


@pytest.mark.parametrize("path", [LARGE, SMALL])
@pytest.mark.parametrize("name", LASTING)
def test_what_does_not_pass_is_given_up(
    fake: FakeHub, tmp_path: Path, name: str, path: str
) -> None:
    fault, words = LASTING[name]
    fake.fault("org/name", path, lasting(fault))
    folder = tmp_path / "stage"
    with pytest.raises(HubUnavailable, match=words) as caught:
        fetch(folder, name=name)
    assert "bytes are here, and the next try goes on from there" in str(caught.value)
    assert no_wrong_file(folder)
    heal(fake)
    fetch(folder)


@pytest.mark.parametrize("path", [LARGE, SMALL])
@pytest.mark.parametrize("name", DAMAGE)
def test_wrong_bytes_are_thrown_away(fake: FakeHub, tmp_path: Path, name: str, path: str) -> None:
    fault, words = DAMAGE[name]
    fake.fault("org/name", path, lasting(fault))
    folder = tmp_path / "stage"
    with pytest.raises(DamagedDownload, match=words) as caught:
        fetch(folder)
    assert path in str(caught.value)
    assert not (folder / path).exists()
    assert no_wrong_file(folder)
    heal(fake)
    fetch(folder)


@pytest.mark.parametrize("path", [LARGE, SMALL])
@pytest.mark.parametrize("name", REFUSALS)
def test_a_no_is_said_at_once(fake: FakeHub, tmp_path: Path, name: str, path: str) -> None:
    fault, words = REFUSALS[name]
    fake.fault("org/name", path, lasting(fault))
    folder = tmp_path / "stage"
    with pytest.raises(WeightsError, match=words) as caught:
        fetch(folder)
    assert not isinstance(caught.value, HubUnavailable)
    assert not (folder / path).exists()
    assert no_wrong_file(folder)


@pytest.mark.parametrize("at", ["resolve", "bytes"])
def test_a_redirect_loop_ends(fake: FakeHub, tmp_path: Path, at: str) -> None:
    commit = fake.repos["org/name"].refs["main"]
    home = f"{fake.url}/org/name/resolve/{commit}/{LARGE}"
    fake.fault("org/name", LARGE, Fault("redirect", times=None, to=home), at=at)
    with pytest.raises(WeightsError, match="redirects without end"):
        fetch(tmp_path / "stage")


def test_a_break_costs_no_second_download(fake: FakeHub, tmp_path: Path) -> None:
    fake.fault("org/name", LARGE, lasting(Fault("close", after=300_000)))
    fetch(tmp_path / "stage")
    ranges = [r.headers.get("range") for r in fake.requests if r.server == "cdn"]
    assert ranges == [None, *(f"bytes={n}-" for n in (300_000, 600_000, 900_000))]
    assert fake.sent == TOTAL


def test_a_next_try_goes_on_and_says_so(fake: FakeHub, tmp_path: Path) -> None:
    folder, dead = tmp_path / "stage", Fault("status", times=None, status=500)
    fake.fault("org/name", LARGE, Fault("close", after=400_000), dead)
    with pytest.raises(HubUnavailable, match=f"of {TOTAL:,} bytes are here"):
        fetch(folder)
    remote = hub.describe("org/name", None)
    assert hub.already(remote.files, folder) >= 400_000
    heal(fake)
    seen: list[Progress] = []
    fetch(folder, Meter(seen.append))
    assert seen[0].done >= 400_000
    assert fake.sent == TOTAL


@pytest.mark.parametrize("damage", ["flip", "grow", "zero"])
def test_a_damaged_part_is_thrown_away(fake: FakeHub, tmp_path: Path, damage: str) -> None:
    """As a power loss can leave it."""
    folder = tmp_path / "stage"
    fake.fault("org/name", LARGE, Fault("close", after=400_000), lasting(Fault("status")))
    with pytest.raises(HubUnavailable):
        fetch(folder)
    heal(fake)
    file = next(f for f in hub.describe("org/name", None).files if f.path == LARGE)
    part = folder / hub.PARTS / file.part
    content = bytearray(part.read_bytes())
    assert len(content) == 400_000
    if damage == "flip":
        content[1000] ^= 1
    elif damage == "zero":
        content[-5000:] = bytes(5000)
    else:
        content += bytes(1_000_000)
    part.write_bytes(content)
    fetch(folder)


def test_a_damaged_file_is_fetched_again(fake: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    fetch(folder)
    (folder / LARGE).write_bytes(bytes(len(FILES[LARGE])))
    (folder / SMALL).unlink()
    (folder / SMALL).symlink_to("/etc/hostname")
    fetch(folder)
    assert not (folder / SMALL).is_symlink()


def test_large_files_are_asked_for_piece_by_piece(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_file, "LARGEST_REQUEST", 400_000)
    fetch(tmp_path / "stage")
    ranges = [r.headers.get("range") for r in fake.requests if r.server == "cdn"]
    assert ranges == ["bytes=0-399999", "bytes=400000-799999", "bytes=800000-"]


def test_a_listener_that_raises_ends_the_download(fake: FakeHub, tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def listen(progress: Progress) -> None:
        if progress.done:
            raise Enough

    with pytest.raises(Enough):
        fetch(tmp_path / "stage", Meter(listen))
    fetch(tmp_path / "stage")


def test_a_full_disk_loses_nothing(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it means is said by who owns the disk; see `store.space`."""
    add, folder = hub_file.Download._add, tmp_path / "stage"

    def full(self: hub_file.Download, piece: bytes, *rest: Any) -> None:
        if self._have > 500_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, piece, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(hub_file.Download, "_add", full)
        with pytest.raises(OSError, match="No space left") as caught:
            fetch(folder)
    assert caught.value.errno == errno.ENOSPC
    assert hub.already(hub.describe("org/name", None).files, folder) > 500_000
    seen: list[Progress] = []
    fetch(folder, Meter(seen.append))
    assert seen[0].done > 500_000


@pytest.mark.parametrize("name", ["reset", "503", "a long wait"])
def test_a_listing_that_does_not_come(fake: FakeHub, name: str) -> None:
    fault, _ = LASTING[name]
    if name == "reset":
        fault = Fault("status", status=500)
    fake.fault("org/name", "", replace(fault, times=1), at="describe")
    if name == "a long wait":
        with pytest.raises(HubUnavailable, match="wait 3600 s") as caught:
            hub.describe("org/name", None, patience=HASTY)
        assert caught.value.retry_after == 3600
    assert hub.describe("org/name", None, patience=HASTY).files
    fake.fault("org/name", "", Fault("status", times=None), at="describe")
    with pytest.raises(HubUnavailable, match="Try again later"):
        hub.describe("org/name", None, patience=HASTY)


def test_a_page_that_is_no_listing(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for to in (f"{fake.cdn}/x", f"{fake.url}/api/models"):
        fake.fault("org/name", "", Fault("redirect", to=to), at="describe")
        with pytest.raises(WeightsError, match="check HF_ENDPOINT"):
            hub.describe("org/name", None, patience=HASTY)
    monkeypatch.setattr(hub_listing, "LARGEST_LISTING", 100)
    with pytest.raises(WeightsError, match="more than 100 bytes"):
        hub.describe("org/name", None, patience=HASTY)


def test_strangers_certificates_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import close_session

    with FakeHub(tls=(CERT, KEY)) as fake:
        fake.use(monkeypatch, tmp_path / "home")
        fake.add("org/name", FILES)
        with pytest.raises(HubUnavailable, match="SSL_CERT_FILE"):
            hub.describe("org/name", None, patience=HASTY)
        assert not fake.requests
        close_session()
        monkeypatch.setenv("SSL_CERT_FILE", CERT)
        fetch(tmp_path / "stage")
        with FakeHub() as plain:
            away = Fault("redirect", times=None, to=f"{plain.url}/org/name")
            fake.fault("org/name", SMALL, away)
            with pytest.raises(WeightsError, match="from https to http"):
                fetch(tmp_path / "other")
            assert not plain.requests


FAULTS = st.builds(
    Fault,
    kind=st.sampled_from(["status", "reset", "close", "short", "long", "flip", "whole"]),
    after=st.integers(0, len(FILES[SMALL]) - 1),
    status=st.sampled_from([404, 408, 410, 429, 500, 503]),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(large=st.lists(FAULTS, max_size=6), small=st.lists(FAULTS, max_size=6))
def test_whatever_happens_no_file_is_wrong(
    fake: FakeHub, large: list[Fault], small: list[Fault]
) -> None:
    heal(fake)
    fake.fault("org/name", LARGE, *map(replace, large))
    fake.fault("org/name", SMALL, *map(replace, small))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "stage"
        for _ in range(1 + len(large) + len(small)):
            try:
                fetch(folder)
                break
            except WeightsError:
                assert no_wrong_file(folder)
        else:
            pytest.fail("each try passes at least one fault, and it did not end")
