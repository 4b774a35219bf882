"""Files of this machine on their way into a stage."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import socket
from pathlib import Path

import pytest
from storing import write_source

from open_llm_server.errors import WeightsError
from open_llm_server.store import local, parallel
from open_llm_server.store.manifest import FileRecord
from open_llm_server.store.progress import Meter, Progress

OTHERS_WRITE = 0o666


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    folder = tmp_path / "stage"
    folder.mkdir()
    return folder


def bring(root: Path, names: list[str], stage: Path) -> list[FileRecord]:
    return local.bring(root, names, stage, Meter())


def user(name: str, uid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid, "", "/", "/bin/sh"))


def group(name: str, gid: int, members: list[str]) -> grp.struct_group:
    return grp.struct_group((name, "x", gid, members))


def reflinks(folder: Path) -> bool:
    source = folder / "probe"
    source.write_bytes(b"x")
    return local._clones(source, folder)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("size", [0, 1, 5000, parallel.BLOCK, 2 * parallel.BLOCK + 1])
def test_what_arrives_is_what_was_there(
    tmp_path: Path, stage: Path, size: int, shared: bool
) -> None:
    source = write_source(tmp_path / "source", size=size, files=3, shared=shared)
    names = local.names(source)
    assert names == ["0.gguf", "2.gguf", "inner/1.json"]
    for record, name in zip(bring(source, names, stage), names, strict=True):
        content = (source / name).read_bytes()
        assert (stage / name).read_bytes() == content
        assert (record.path, record.bytes) == (name, size)
        assert record.sha256 == hashlib.sha256(content).hexdigest()
        assert record.mtime_ns == (stage / name).stat().st_mtime_ns


def test_only_what_nobody_else_may_write_to_is_linked(tmp_path: Path, stage: Path) -> None:
    if reflinks(tmp_path):
        pytest.skip("this file system reflinks: nothing is hard-linked")
    source = write_source(tmp_path / "source", size=100, files=3, shared=True)
    (source / "2.gguf").chmod(OTHERS_WRITE)
    names = local.names(source)
    assert local.bytes_to_copy(source, names, stage) == 100
    bring(source, names, stage)
    linked = {name: (stage / name).samefile(source / name) for name in names}
    assert linked == {"0.gguf": True, "2.gguf": False, "inner/1.json": True}


def test_a_group_of_ones_own_is_nobody_else(
    tmp_path: Path, stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reflinks(tmp_path):
        pytest.skip("this file system reflinks: nothing is hard-linked")
    source = write_source(tmp_path / "source", size=100, files=3, shared=True)
    path = source / "0.gguf"
    path.chmod(0o664)
    facts = path.stat()
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user("ann", facts.st_gid))
    for members, copied in (([], 0), (["ann"], 0), (["bob"], 100)):
        monkeypatch.setattr(grp, "getgrgid", lambda gid, m=members: group("ann", gid, m))
        assert local.bytes_to_copy(source, ["0.gguf"], stage) == copied
    monkeypatch.setattr(grp, "getgrgid", lambda gid: group("staff", gid, []))
    assert local.bytes_to_copy(source, ["0.gguf"], stage) == 100


def test_others_files_are_copied(
    tmp_path: Path, stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(tmp_path / "source", size=100, files=1, shared=True)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    bring(source, ["0.gguf"], stage)
    assert not (stage / "0.gguf").samefile(source / "0.gguf")


def test_links_count_as_the_files_that_they_lead_to(tmp_path: Path, stage: Path) -> None:
    blobs = write_source(tmp_path / "blobs", size=100, files=1, shared=True)
    source = tmp_path / "snapshot"
    source.mkdir()
    (source / "model.gguf").symlink_to(blobs / "0.gguf")
    assert local.names(source) == ["model.gguf"]
    bring(source, ["model.gguf"], stage)
    assert not (stage / "model.gguf").is_symlink()
    assert (stage / "model.gguf").read_bytes() == (blobs / "0.gguf").read_bytes()


def test_links_may_lead_out_of_the_folder_into_a_hubs_cache_only(tmp_path: Path) -> None:
    model, cache = tmp_path / "model", tmp_path / "models--org--name"
    for place in (model, cache / "blobs", cache / "snapshots" / "1"):
        place.mkdir(parents=True)
    blob = cache / "blobs" / ("0" * 64)
    for path in (blob, model / "own", tmp_path / "secret", cache / "blobs" / "secret"):
        path.touch()
    (cache / "snapshots" / "1" / "config.json").symlink_to(f"../../blobs/{blob.name}")
    local.refuse_ways_out(cache / "snapshots" / "1", ["config.json"])
    for name, target in (("a", "own"), ("b", str(blob)), ("c", "../model/own")):
        (model / name).symlink_to(target)
    local.refuse_ways_out(model, ["own", "a", "b", "c"])
    (tmp_path / "link").symlink_to(model)
    local.refuse_ways_out(tmp_path / "link", ["own", "a"])
    (model / "d").symlink_to("../secret")
    (model / "e").symlink_to(cache / "blobs" / "secret")
    (model / "f").symlink_to("g")
    (model / "g").symlink_to("/etc/passwd")
    for name in "defg":
        with pytest.raises(WeightsError, match=rf"{name} leads out of its folder"):
            local.refuse_ways_out(model, ["own", name])


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "folder", "missing", "loop"])
def test_what_is_no_regular_file_is_refused_by_name(
    tmp_path: Path, stage: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    path = source / "model.gguf"
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            monkeypatch.chdir(source)  # a unix socket's path must be short
            listener.bind(path.name)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(path.name)
        with pytest.raises(WeightsError, match=r"model\.gguf"):
            bring(source, ["model.gguf"], stage)
    assert not list(stage.iterdir())


@pytest.mark.parametrize("name", ["../model.gguf", "/etc/passwd", "a/../../b", "", "a\0b"])
def test_a_name_cannot_lead_out(tmp_path: Path, stage: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="not the name of a file"):
        bring(tmp_path, [name], stage)


@pytest.mark.parametrize("shared", [True, False])
def test_a_file_that_changes_meanwhile_is_refused(
    tmp_path: Path, stage: Path, shared: bool
) -> None:
    source = write_source(tmp_path / "source", size=3 * parallel.BLOCK, files=1, shared=shared)
    path = source / "0.gguf"

    def write_once(progress: Progress) -> None:
        if progress.phase == "copying":
            with path.open("r+b") as file:
                file.write(b"other")
            os.utime(path, ns=(1, 1))

    with pytest.raises(WeightsError, match="changed while it was imported"):
        local.bring(source, ["0.gguf"], stage, Meter(write_once))


def test_whoever_listens_can_stop_it(tmp_path: Path, stage: Path) -> None:
    source = write_source(tmp_path / "source", size=2 * parallel.BLOCK, files=4)

    def stop(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local.bring(source, local.names(source), stage, Meter(stop))


def test_bytes_are_counted_to_the_end(tmp_path: Path, stage: Path) -> None:
    source = write_source(tmp_path / "source", size=100, files=4)
    heard: list[Progress] = []
    local.bring(source, local.names(source), stage, Meter(heard.append))
    assert {progress.phase for progress in heard} == {"copying"}
    assert (heard[-1].done, heard[-1].total) == (400, 400)


def test_what_an_earlier_try_left_goes(tmp_path: Path, stage: Path) -> None:
    write_source(stage, size=10, files=3)
    source = write_source(tmp_path / "source", size=100, files=1)
    bring(source, ["0.gguf"], stage)
    assert [path.name for path in stage.rglob("*")] == ["0.gguf"]


def test_a_folder_that_is_no_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(tmp_path / "source", size=1, files=9)
    (source / ".git").mkdir()
    (source / ".git" / "config").touch()
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/too-deep.gguf").touch()
    assert len(local.names(source)) == 9
    monkeypatch.setattr(local, "_MOST_NAMES", 8)
    with pytest.raises(WeightsError, match="folder of its own"):
        local.names(source)
    with pytest.raises(WeightsError, match="cannot be read"):
        local.names(source / "none")


def test_records_are_of_everything_that_shows(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", size=100, files=2)
    (source / ".cache").mkdir()
    (source / ".cache" / "0.gguf").touch()
    found = local.records(source, Meter())
    assert [record.path for record in found] == ["0.gguf", "inner/1.json"]
    content = (source / "0.gguf").read_bytes()
    assert found[0].sha256 == hashlib.sha256(content).hexdigest()


def test_a_name_that_is_no_text_is_refused(tmp_path: Path, stage: Path) -> None:
    name = os.fsdecode(b"model-\xff.gguf")
    with pytest.raises(WeightsError, match="UTF-8"):
        bring(tmp_path, [name], stage)


def test_what_would_be_refused_is_refused_when_counted(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    (source / "gone.gguf").symlink_to(source / "none")
    assert local.bytes_of(source, ["0.gguf"]) == (source / "0.gguf").stat().st_size
    with pytest.raises(WeightsError, match=r"gone\.gguf cannot be read: No such file"):
        local.bytes_of(source, ["0.gguf", "gone.gguf"])
