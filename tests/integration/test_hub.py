"""What a hub says of a model, and the way of its files, when nothing goes wrong but the request."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from fake_hub import FakeHub, Fault, git_sha1

from open_llm_server.errors import HubUnavailable, WeightsError
from open_llm_server.store import hub, hub_listing
from open_llm_server.store.hub_http import Patience
from open_llm_server.store.progress import Meter, Progress

HASTY = Patience(stall_s=5, connect_s=5, tries=3, first_wait_s=0.01, longest_wait_s=0.01)
WEIGHTS = os.urandom(300_000)
FILES = {
    "config.json": b'{"a": 1}',
    "model.gguf": WEIGHTS,
    "1_Pooling/config.json": b"{}",
    "empty.txt": b"",
    "with space & ä?#%20.txt": b"odd",
}
TOKEN = "hf_averysecrettoken"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as running:
        running.use(monkeypatch, tmp_path / "home")
        running.add("org/name", FILES, licence="apache-2.0")
        yield running


def test_a_model_is_described(fake: FakeHub) -> None:
    remote = hub.describe("org/name", None)
    assert remote.id == "org/name"
    assert remote.commit == fake.repos["org/name"].refs["main"]
    assert remote.licence == "apache-2.0"
    assert [file.path for file in remote.files] == sorted(FILES)
    known = {file.path: file for file in remote.files}
    large, small = known["model.gguf"], known["config.json"]
    assert (large.bytes, large.git_sha1) == (len(WEIGHTS), None)
    assert large.sha256 == sha256(WEIGHTS).hexdigest()
    assert (small.sha256, small.git_sha1) == (None, git_sha1(FILES["config.json"]))


def test_a_revision_is_a_branch_or_a_commit(fake: FakeHub) -> None:
    first = fake.repos["org/name"].refs["main"]
    second = fake.add("org/name", {"config.json": b"2"}, branch="refs/pr/1")
    assert hub.describe("org/name", "refs/pr/1").commit == second
    assert hub.describe("org/name", first).commit == first
    assert hub.describe("org/name", None).licence == "apache-2.0"
    assert hub.describe("org/name", second).licence is None


def test_files_come_whole_and_proven(fake: FakeHub, tmp_path: Path) -> None:
    remote, folder = hub.describe("org/name", None), tmp_path / "stage"
    seen: list[Progress] = []
    records = hub.fetch(remote, remote.files, folder, Meter(seen.append))
    assert [record.path for record in records] == [file.path for file in remote.files]
    for record in records:
        path = folder / record.path
        assert path.read_bytes() == FILES[record.path]
        assert record.sha256 == sha256(FILES[record.path]).hexdigest()
        assert (record.bytes, record.checked) == (len(FILES[record.path]), "hub")
        assert record.mtime_ns == path.stat().st_mtime_ns
    total = sum(map(len, FILES.values()))
    assert (seen[0].phase, seen[0].done, seen[0].total) == ("downloading", 0, total)
    assert (seen[-1].done, seen[-1].total) == (total, total)
    assert fake.sent == total


def test_only_what_is_asked_for_comes_and_nothing_twice(fake: FakeHub, tmp_path: Path) -> None:
    remote, folder = hub.describe("org/name", None), tmp_path / "stage"
    wanted = [file for file in remote.files if file.path == "model.gguf"]
    (folder / "old").mkdir(parents=True)
    (folder / "old" / "modeling.py").write_text("raise SystemExit")
    hub.fetch(remote, wanted, folder, Meter())
    assert [path.name for path in folder.rglob("*")] == ["model.gguf"]
    before = len(fake.requests)
    seen: list[Progress] = []
    records = hub.fetch(remote, wanted, folder, Meter(seen.append))
    assert records[0].sha256 == sha256(WEIGHTS).hexdigest()
    assert len(fake.requests) == before
    assert seen[0].done == len(WEIGHTS)


def test_another_commit_takes_over_what_is_the_same(fake: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    remote = hub.describe("org/name", None)
    hub.fetch(remote, remote.files, folder, Meter())
    fake.add("org/name", {"model.gguf": WEIGHTS, "config.json": b'{"a": 2}'})
    sent = fake.sent
    remote = hub.describe("org/name", None)
    assert hub.already(remote.files, folder) >= len(WEIGHTS)
    hub.fetch(remote, remote.files, folder, Meter())
    assert fake.sent - sent == len(b'{"a": 2}')
    assert (folder / "config.json").read_bytes() == b'{"a": 2}'
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.gguf"]


def test_what_no_hash_tells_from_others_is_fetched_anew(fake: FakeHub, tmp_path: Path) -> None:
    """Files of the same length, by which alone an older commit's would be taken for the newer's."""
    fake.hashes = False
    folder, first = tmp_path / "stage", hub.describe("org/name", None)
    assert {(file.sha256, file.git_sha1) for file in first.files} == {(None, None)}
    fake.fault("org/name", "model.gguf", Fault("close", after=1000), Fault("status", times=None))
    with pytest.raises(HubUnavailable, match=r"\. 0 of"):
        hub.fetch(first, first.files, folder, Meter(), patience=HASTY)
    assert hub.already(first.files, folder) == 0
    fake._faults.clear()
    for content in (os.urandom(len(WEIGHTS)), os.urandom(len(WEIGHTS))):
        files = {**FILES, "model.gguf": content}
        fake.add("org/name", files)
        remote, before = hub.describe("org/name", None), fake.sent
        fake.fault("org/name", "model.gguf", Fault("close", after=1000))
        records = hub.fetch(remote, remote.files, folder, Meter(), patience=HASTY)
        assert {r.path: (folder / r.path).read_bytes() for r in records} == files
        assert {r.checked for r in records} == {"none"}
        assert fake.sent - before == sum(map(len, files.values()))


@pytest.mark.parametrize("name", [".parts/model.gguf", ".parts", ".Parts/a/config.json"])
def test_files_in_the_place_of_parts_are_refused(fake: FakeHub, tmp_path: Path, name: str) -> None:
    """They would be removed with the parts."""
    fake.add("org/odd", {"config.json": b"{}", name: b"x"})
    remote = hub.describe("org/odd", None)
    with pytest.raises(WeightsError, match="nothing was fetched"):
        hub.fetch(remote, remote.files, tmp_path / "stage", Meter())
    assert fake.sent == 0


def test_the_token_goes_to_the_hub_and_nowhere_else(
    fake: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fake.tokens.add(TOKEN)
    fake.add("org/closed", FILES, gated=True)
    fake.fault("org/closed", "config.json", Fault("redirect", to=f"{fake.cdn}/x"), at="resolve")
    remote = hub.describe("org/closed", None)
    hub.fetch(remote, remote.files, tmp_path / "stage", Meter(), patience=HASTY)
    asked = {server: [r for r in fake.requests if r.server == server] for server in ("hub", "cdn")}
    assert all(r.headers["authorization"] == f"Bearer {TOKEN}" for r in asked["hub"])
    assert len(asked["cdn"]) == 2
    assert not [r for r in asked["cdn"] if TOKEN in f"{r.path}{r.headers}"]
    assert not [r for r in asked["cdn"] if "authorization" in r.headers]
    assert TOKEN not in caplog.text + repr(remote)


def test_a_token_once_dropped_does_not_come_back(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else another host could have the hub do things in the person's name."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    remote = hub.describe("org/name", None)
    home = f"{fake.url}/org/name/resolve/main/config.json"
    fake.repos["org/name"].refs["main"] = remote.commit
    fake.fault("org/name", "model.gguf", Fault("redirect", to=home))
    hub.fetch(remote, remote.files, tmp_path / "stage", Meter(), patience=HASTY)
    back = [r for r in fake.requests if r.path.endswith("/resolve/main/config.json")]
    assert back
    assert not [r for r in back if "authorization" in r.headers]


def test_the_librarys_token_file_counts(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.tokens.add(TOKEN)
    fake.add("org/closed", FILES, gated=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(TOKEN + "\n")
    assert hub.describe("org/closed", None).id == "org/closed"


def test_a_gated_model_says_where_to_accept_its_licence(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add("org/closed", FILES, gated=True)
    with pytest.raises(WeightsError, match="set HF_TOKEN") as caught:
        hub.describe("org/closed", None)
    assert f"{fake.url}/org/closed" in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(WeightsError, match="not open to your token") as caught:
        hub.describe("org/closed", None)
    assert TOKEN not in str(caught.value)


def test_a_gated_model_may_show_its_listing(fake: FakeHub, tmp_path: Path) -> None:
    gate = Fault("status", times=None, status=401, headers={"X-Error-Code": "GatedRepo"})
    fake.fault("org/name", "model.gguf", gate, at="resolve")
    remote = hub.describe("org/name", None)
    with pytest.raises(WeightsError, match="accepted its licence"):
        hub.fetch(remote, remote.files, tmp_path / "stage", Meter(), patience=HASTY)


@pytest.mark.parametrize("token", [None, TOKEN])
def test_what_is_not_there_is_suggested(
    fake: FakeHub, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(
        WeightsError, match=r"no model other/name .*there is org/name.*(HF_TOKEN|token)"
    ):
        hub.describe("other/name", None)
    with pytest.raises(WeightsError, match=r"no revision mian \(there is main\)"):
        hub.describe("org/name", "mian")
    for wrong in ("../name", "org/..", "a/b/c", "", "/org", "org/name?x", "org/n\n", "http://x/y"):
        with pytest.raises(WeightsError, match="is not the id of a model"):
            hub.describe(wrong, None)


def test_a_file_that_goes_away_is_named_as_such(fake: FakeHub, tmp_path: Path) -> None:
    remote = hub.describe("org/name", None)
    gone = hub.RemoteFile("gone.json", 3, None, git_sha1(b"123"))
    with pytest.raises(WeightsError, match="a file is gone"):
        hub.fetch(remote, [gone], tmp_path / "stage", Meter(), patience=HASTY)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "C:\\evil", "nul", "x" * 300, "a\nb"])
def test_hostile_names_are_refused_before_anything_comes(fake: FakeHub, name: str) -> None:
    fake.add("org/evil", {"config.json": b"{}", name: b"evil"})
    with pytest.raises(WeightsError, match="lists a file named"):
        hub.describe("org/evil", None)
    assert fake.sent == 0


def test_offline_nothing_is_asked(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    remote, folder = hub.describe("org/name", None), tmp_path / "stage"
    hub.fetch(remote, remote.files, folder, Meter())
    before = len(fake.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch(remote, remote.files, folder, Meter())
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE") as caught:
        hub.describe("org/name", None)
    assert not isinstance(caught.value, HubUnavailable)
    assert "open-llm-server import FAMILY@org/name" in str(caught.value)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        hub.fetch(remote, remote.files, tmp_path / "other", Meter())
    assert len(fake.requests) == before


@pytest.mark.parametrize("damaged", [False, True])
def test_what_the_librarys_cache_has_is_not_fetched(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    from huggingface_hub import constants, hf_hub_download

    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("model.gguf", "config.json"):
        cached = Path(hf_hub_download("org/name", name)).resolve()
        if damaged:
            cached.write_bytes(b"\0" * len(FILES[name]))
    content, before = cached.read_bytes(), fake.sent
    remote = hub.describe("org/name", None)
    wanted = [file for file in remote.files if file.path in ("model.gguf", "config.json")]
    records = hub.fetch(remote, wanted, tmp_path / "stage", Meter())
    assert all((tmp_path / "stage" / r.path).read_bytes() == FILES[r.path] for r in records)
    assert [record.checked for record in records] == ["hub", "hub"]
    assert cached.read_bytes() == content
    if damaged:
        assert fake.sent - before == sum(file.bytes for file in wanted)
        return
    assert fake.sent == before
    asked = len(fake.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = hub.describe("org/name", None)
    assert (found.commit, found.files) == (remote.commit, tuple(wanted))
    assert hub.fetch(found, found.files, tmp_path / "other", Meter())
    assert len(fake.requests) == asked


def test_a_link_is_never_written_through(fake: FakeHub, tmp_path: Path) -> None:
    """The stage may hold links to files of the person, who may have changed them since."""
    remote, folder, theirs = hub.describe("org/name", None), tmp_path / "stage", tmp_path / "theirs"
    for content in (WEIGHTS[:1000], bytes(len(WEIGHTS))):
        theirs.unlink(missing_ok=True)
        theirs.write_bytes(content)
        (folder / "model.gguf").unlink(missing_ok=True)
        folder.mkdir(exist_ok=True)
        (folder / "model.gguf").hardlink_to(theirs)
        hub.fetch(remote, remote.files, folder, Meter())
        assert (folder / "model.gguf").read_bytes() == WEIGHTS
        assert theirs.read_bytes() == content


def test_without_a_hub_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeHub() as gone:
        gone.use(monkeypatch, tmp_path)
    with pytest.raises(HubUnavailable, match="cannot be reached") as caught:
        hub.describe("org/name", None, patience=HASTY)
    assert caught.value.exit_code == 75
    assert "open-llm-server import FAMILY@org/name" in str(caught.value)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ({"license": "mit"}, "mit"),
        ({"license": ["mit", "apache-2.0"]}, "mit, apache-2.0"),
        ({"license": "other", "license_name": "llama3"}, "llama3"),
        ({"license": "other"}, "other"),
        ({"license": {"a": 1}}, None),
        ({"license": "a\x1bb"}, None),
        ({"license": "x" * 300}, None),
        ({}, None),
        ([], None),
        (None, None),
    ],
)
def test_a_licence_is_what_the_card_says(card: object, licence: str | None) -> None:
    assert hub_listing._licence(card) == licence
