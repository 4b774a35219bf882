"""How an import becomes a model, and what becomes of one that does not."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from storing import KEY, TAG, faults, import_folder, later, manifest_of, write_source

from open_llm_server.config.folder import bentoml_home
from open_llm_server.errors import HubUnavailable, InsufficientSpace, WeightsError
from open_llm_server.store import catalog, local, manifest, places, remove, space
from open_llm_server.store.progress import Meter, Progress
from open_llm_server.store.stage import stage

DAY_S = 24 * 3600


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("BENTOML_HOME", str(folder))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source", size=1000)


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def break_off(key: str, error: BaseException) -> None:
    """An import that ends with `error` and has written something before."""

    def begin() -> None:
        with stage(key, meter=Meter()) as staged:
            (staged.folder / "half.part").touch()
            raise error

    with pytest.raises(type(error)):
        begin()


def test_a_model_is_its_files_and_what_bentoml_wants(home: Path, source: Path) -> None:
    entry = import_folder(source)
    assert everything(entry.folder) == [
        *("0.gguf", "2.gguf", "3.gguf", "inner", "inner/1.json"),
        *("model.yaml", "open-llm-server.json"),
    ]
    assert (home / "models/small/latest").read_text() == entry.tag.version
    assert catalog.entries() == [entry]
    assert entry.manifest == manifest.read(entry.folder)
    assert not [*places.staging().iterdir(), *places.trash().iterdir(), *places.locks().iterdir()]
    assert not faults()


def test_only_what_the_manifest_names_is_published(source: Path) -> None:
    with stage(KEY, meter=Meter()) as staged:
        records = local.bring(source, ["0.gguf", "inner/1.json"], staged.folder, Meter())
        (staged.folder / ".cache/hub").mkdir(parents=True)
        (staged.folder / ".cache/hub/notes").touch()
        (staged.folder / "half.part").touch()
        (staged.folder / "link").symlink_to(source)
        entry = staged.publish(manifest_of(records))
    assert "link" not in everything(entry.folder)
    assert not faults()
    assert (source / "0.gguf").exists()


@pytest.mark.parametrize("harm", ["missing", "size", "written", "link"])
def test_files_must_be_as_the_manifest_says(source: Path, harm: str) -> None:
    def do_harm(path: Path) -> None:
        if harm == "written":
            os.utime(path, ns=(1, 1))
        elif harm == "size":
            path.write_bytes(b"other")
        else:
            path.unlink()
        if harm == "link":
            path.symlink_to(source / "0.gguf")

    def publish() -> None:
        with stage(KEY, meter=Meter()) as staged:
            records = local.bring(source, ["0.gguf"], staged.folder, Meter())
            do_harm(staged.folder / "0.gguf")
            staged.publish(manifest_of(records))

    with pytest.raises(WeightsError, match=r"0\.gguf"):
        publish()
    assert not catalog.entries()
    assert not [*places.staging().iterdir()]


def test_the_stores_own_names_are_refused(source: Path) -> None:
    (source / manifest.NAME).write_text("{}")
    with pytest.raises(WeightsError, match="rename"):
        import_folder(source)


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (KeyboardInterrupt(), True),
        (OSError("a disk failed"), True),
        (HubUnavailable("later"), True),
        (InsufficientSpace("full"), True),
        (WeightsError("refused"), False),
    ],
)
def test_what_can_be_gone_on_with_stays(error: BaseException, stays: bool) -> None:
    break_off(KEY, error)
    with stage(KEY, meter=Meter()) as staged:
        assert (staged.folder / "half.part").exists() is stays
    assert not staged.folder.exists()


def test_the_same_files_again_get_the_new_manifest(source: Path) -> None:
    first = import_folder(source)
    inode = (first.folder / "0.gguf").stat().st_ino
    second = import_folder(source, imported_at=later(1), revision="v2")
    assert (second.folder / "0.gguf").stat().st_ino == inode
    assert [entry.manifest.revision for entry in catalog.entries()] == ["v2"]
    assert not faults()


@pytest.mark.parametrize("what", ["half", "file", "foreign", "changed", "without model.yaml"])
def test_what_is_no_whole_model_gives_way(source: Path, what: str) -> None:
    folder = places.models() / "small" / TAG.partition(":")[2]
    if what == "file":
        folder.parent.mkdir(parents=True)
        folder.touch()
    elif what in ("half", "foreign"):
        folder.mkdir(parents=True)
        (folder / "model.yaml" if what == "foreign" else folder / "0.gguf").touch()
    else:
        import_folder(source)
        (folder / ("0.gguf" if what == "changed" else "model.yaml")).unlink()
    import_folder(source)
    assert not faults()
    assert not [*places.trash().iterdir()]


def test_other_files_under_the_tag_are_replaced(tmp_path: Path, source: Path) -> None:
    import_folder(source)
    entry = import_folder(write_source(tmp_path / "other", files=1))
    assert everything(entry.folder) == ["0.gguf", "model.yaml", "open-llm-server.json"]
    assert not faults()


def test_latest_is_the_newest(home: Path, source: Path) -> None:
    import_folder(source, tag="small:2", imported_at=later(2))
    import_folder(source, tag="small:1", imported_at=later(1))
    assert (home / "models/small/latest").read_text() == "2"


def test_a_second_import_waits_and_says_so(source: Path) -> None:
    heard: list[Progress] = []
    waiting, done = threading.Event(), threading.Event()

    def listen(progress: Progress) -> None:
        heard.append(progress)
        waiting.set()

    def second() -> None:
        with stage(KEY, meter=Meter(listen)):
            done.set()

    with stage(KEY, meter=Meter()) as staged:
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(60)
        assert not done.is_set()
        staged.publish(manifest_of(local.bring(source, ["0.gguf"], staged.folder, Meter())))
    thread.join(60)
    assert done.is_set()
    assert {progress.phase for progress in heard} == {"waiting"}


def test_whoever_waits_can_be_stopped() -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with stage(KEY, meter=Meter()):
        with pytest.raises(KeyboardInterrupt):
            with stage(KEY, meter=Meter(stop)):
                raise AssertionError("it is not free")


def test_stale_stages_go_and_others_stay(home: Path) -> None:
    for key in ("stale", "fresh", "held"):
        break_off(key, KeyboardInterrupt())
    (places.trash() / "thrown-away").mkdir()
    (places.staging() / "stray").touch()
    old = time.time() - DAY_S - 60
    for key in ("stale", "held", "stray"):
        for path in (*(places.staging() / key).rglob("*"), places.staging() / key):
            os.utime(path, (old, old))
    held_at = places.staging() / "held"
    with stage("held", meter=Meter()):
        os.utime(held_at, (old, old))
        with stage("another", meter=Meter()):
            assert everything(places.staging()) == [
                *("another", "fresh", "fresh/half.part", "held", "held/half.part"),
            ]
    assert everything(places.trash()) == []


def test_room_is_checked_first_and_what_is_there_counts(source: Path) -> None:
    with stage(KEY, meter=Meter()) as staged:
        free = space.free(staged.folder)
        (staged.folder / "half.part").write_bytes(bytes(100_000))
        staged.reserve(50_000)
        assert staged.left() == 0
        with pytest.raises(InsufficientSpace) as caught:
            staged.reserve(free + 10**15)
    assert str(caught.value.extra["needed"]) in caught.value.message
    assert str(bentoml_home()) in caught.value.message
    assert caught.value.extra["needed"] > caught.value.extra["available"] > 0


@pytest.mark.parametrize("place", ["", "models", ".open-llm-server"])
def test_a_store_that_cannot_be_written_is_named(home: Path, source: Path, place: str) -> None:
    (home / place).parent.mkdir(exist_ok=True)
    (home / place).touch()
    with pytest.raises(WeightsError, match=f"BENTOML_HOME .*{home}"):
        import_folder(source)
    (home / place).unlink()


@pytest.fixture
def mounted(home: Path) -> Iterator[None]:
    """A file system of its own, of 1 MiB, at `models`."""
    import subprocess

    home.joinpath("models").mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(home / "models")]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield
    subprocess.run(["umount", str(home / "models")], check=True)


@pytest.mark.usefixtures("mounted")
def test_models_on_another_file_system_are_refused_first(home: Path, source: Path) -> None:
    with pytest.raises(WeightsError, match="another file system"):
        import_folder(source)
    assert everything(home / "models") == []


@pytest.mark.usefixtures("mounted")
@pytest.mark.parametrize("reserve", [True, False])
def test_a_disk_that_is_really_full(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reserve: bool
) -> None:
    small = home / "models" / "home"
    monkeypatch.setenv("BENTOML_HOME", str(small))
    source = write_source(tmp_path / "source", size=300_000, files=3)
    for taken in range(50_000, 700_000, 50_000):
        (home / "models" / "ballast").write_bytes(bytes(taken))
        if taken <= 100_000:
            import_folder(source, reserve=reserve)
            assert not faults()
            remove.remove(catalog.entries()[0])
            continue
        with pytest.raises(InsufficientSpace) as caught:
            import_folder(source, reserve=reserve)
        assert str(bentoml_home()) in caught.value.message
        assert not faults()
        assert not [*places.models().glob("*/*")]
        remove.prune()
    (home / "models" / "ballast").unlink()
    import_folder(source)
    assert not faults()


def test_the_same_again_keeps_its_revisions(source: Path) -> None:
    facts: dict[str, Any] = {"kind": "hub", "location": "org/name", "commit": "a" * 40}
    import_folder(source, revision="v1", **facts)
    assert [*import_folder(source, imported_at=later(1), **facts).manifest.asked] == ["main", "v1"]
    (places.models() / TAG.replace(":", "/") / "0.gguf").unlink()
    entry = import_folder(source, imported_at=later(2), **facts)
    assert [*entry.manifest.asked] == ["main", "v1"], "where the files were replaced too"
    assert entry.manifest == manifest.read(entry.folder)
    (other,) = {*import_folder(source, location="elsewhere").manifest.asked}
    assert other == "main"


def test_a_newer_releases_model_stays(source: Path) -> None:
    path = import_folder(source).folder / manifest.NAME
    path.write_text(path.read_text().replace('"format": 1', '"format": 3'))
    content = path.read_bytes()
    with pytest.raises(WeightsError, match="newer release"):
        import_folder(source)
    assert path.read_bytes() == content


@pytest.mark.parametrize("said", ["gone", "1"])
def test_a_latest_that_was_left_wrong_is_put_right(home: Path, source: Path, said: str) -> None:
    import_folder(source, tag="small:1", imported_at=later(1))
    import_folder(source, tag="small:2", imported_at=later(2))
    latest = home / "models/small/latest"
    foreign = home / "models/foreign"
    (foreign / "v").mkdir(parents=True)
    (foreign / "latest").write_text("w")
    latest.write_text(said)
    with stage("another", meter=Meter()):
        assert latest.read_text() == "2"
    latest.write_text(said)
    assert remove.prune([]) == []
    assert latest.read_text() == "2"
    assert (foreign / "latest").read_text() == "w", "other tools' names are theirs"


def test_what_others_call_the_latest_stays(home: Path, source: Path) -> None:
    import_folder(source, tag="small:1")
    (home / "models/small/foreign").mkdir()
    (home / "models/small/latest").write_text("foreign")
    remove.prune()
    assert (home / "models/small/latest").read_text() == "foreign"


def test_a_latest_of_nothing_goes(home: Path, source: Path) -> None:
    import_folder(source)
    (home / "models/gone").mkdir()
    (home / "models/gone/latest").write_text("1")
    remove.prune()
    assert not (home / "models/gone").exists()
