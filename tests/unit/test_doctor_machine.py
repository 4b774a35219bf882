"""What is said of disks, ports, limits, container engines and networks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from storing import import_folder, write_source

from open_llm_server import doctor_disk, doctor_ports
from open_llm_server.config.schema import ServerConfig
from open_llm_server.doctor_ask import Answer
from open_llm_server.doctor_containers import Engine, judge, judge_gpus
from open_llm_server.doctor_disk import file_system, judge_file_system, judge_room
from open_llm_server.doctor_finding import Case
from open_llm_server.doctor_limits import judge_files, judge_walls
from open_llm_server.doctor_models import judge_memory
from open_llm_server.doctor_network import judge_silence, silence
from open_llm_server.doctor_ports import inodes, shown_command
from open_llm_server.supervisor_store import make_store, try_store

MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:40 / /mnt/a\040share rw - nfs4 server:/x rw
31 27 0:41 / /mnt/a\040share/local rw - xfs /dev/vdb rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/home/me/bentoml", "ext4"),
        ("/mnt/a share", "nfs4"),
        ("/mnt/a share/models", "nfs4"),
        ("/mnt/a sharex", "ext4"),
        ("/mnt/a share/local/models", "xfs"),
    ],
)
def test_file_systems(path: str, kind: str) -> None:
    assert file_system(MOUNTS, path) == kind
    assert file_system("", path) == ""


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nfs4", "network"),
        ("fuse.sshfs", "network"),
        ("tmpfs", "in memory"),
        ("overlay", "container"),
        ("ext4", None),
        ("", None),
    ],
)
def test_file_systems_worth_a_note(kind: str, words: str | None) -> None:
    found = judge_file_system(Path("/store"), kind)
    assert [finding.level for finding in found] == (["note"] if words else [])
    assert not words or words in found[0].says


@pytest.mark.parametrize(
    ("free", "missing", "level"),
    [
        (10**12, [], "ok"),
        (10**12, ["flan-t5"], "ok"),
        (10**8, [], "note"),
        (10**8, ["flan-t5"], "warning"),
    ],
)
def test_room(free: int, missing: list[str], level: str) -> None:
    finding = judge_room(free, 10**12, missing)
    assert finding.level == level
    assert all(name in finding.says for name in missing) or level == "ok"


def said_of_store() -> dict[str, tuple[str, str]]:
    return {one.subject: (one.level, one.do) for one in doctor_disk.check(Case())}


def test_a_store_with_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("BENTOML_HOME", str(home))
    assert said_of_store()["imported"] == ("ok", "")
    source = write_source(tmp_path / "source", size=100)
    whole, cut, damaged = (
        import_folder(source, key=name, tag=f"{name}:1") for name in ("whole", "cut", "damaged")
    )
    assert said_of_store()["imported"] == ("ok", "")
    (cut.folder / "0.gguf").unlink()
    (damaged.folder / "open-llm-server.json").write_text("{")
    (home / ".open-llm-server" / "staging" / "begun").mkdir(parents=True)
    said = said_of_store()
    assert said[str(cut.tag)] == ("warning", f"open-llm-server models verify {cut.tag}")
    level, do = said[str(damaged.tag)]
    assert level == "warning"
    assert do.startswith(f"open-llm-server models rm {damaged.tag}")
    assert said["leftovers"][0] == "note"
    assert str(whole.tag) not in said
    assert "imported" not in said


def test_a_store_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "new" / "home"))
    assert said_of_store()["store"][0] == "ok"
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").touch()
    assert said_of_store()["store"][0] == "warning"


@pytest.mark.parametrize("odd", ["bentos", "models", "envs", "tmp"])
def test_a_store_that_cannot_be_made(
    odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    (tmp_path / odd).touch()
    store, *_ = (one for one in doctor_disk.check(Case()) if one.subject == "store")
    assert store.level == "warning"
    assert f"{tmp_path / odd} is not a folder" in store.says
    assert [path.name for path in tmp_path.iterdir()] == [odd]
    with pytest.raises(OSError, match=odd):
        make_store(tmp_path)


def test_a_store_where_nothing_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", "/proc/nothing")
    assert said_of_store()["store"][0] == "warning"


def test_a_store_is_made(tmp_path: Path) -> None:
    home = tmp_path / "a" / "home"
    try_store(home)
    assert not (tmp_path / "a").exists()
    make_store(home)
    assert sorted(path.name for path in home.iterdir()) == ["bentos", "envs", "models", "tmp"]
    make_store(home)
    try_store(home)


OTHER_USER = """
import os, sys
from open_llm_server import doctor_disk
from open_llm_server.doctor_finding import Case
doctor_disk.check(Case())  # imports all that it needs
os.setresuid(65534, 65534, 65534)
os.environ["BENTOML_HOME"] = sys.argv[1]
print([one.level for one in doctor_disk.check(Case()) if one.subject == "store"][0])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_store_behind_a_closed_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "own"))
    (tmp_path / "closed" / "home").mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-c", OTHER_USER, str(tmp_path / "closed" / "home")],
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["warning"], done.stderr


def test_what_broken_builds_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    left = tmp_path / "tmp" / "bentoml_bento_llm1a2b"
    left.mkdir(parents=True)
    (left / "weights").write_bytes(bytes(5000))
    (finding,) = (one for one in doctor_disk.check(Case()) if one.subject == "leftovers")
    assert finding.level == "note"
    assert "builds" in finding.says
    assert finding.do.endswith(f"rm -r {tmp_path}/tmp/bentoml_bento_*")


@pytest.fixture
def taken() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening.getsockname()[1]


def test_ports(taken: int) -> None:
    (free,) = doctor_ports.ports(ServerConfig(port=0))
    assert free.level == "ok"
    (http,) = doctor_ports.ports(ServerConfig(port=taken))
    assert http.level == "problem"
    assert f"port {taken} of 127.0.0.1 is taken by another program" in http.says
    assert f"(process {os.getpid()})" in http.says
    assert "--port 0" in http.do
    grpc, probes = doctor_ports.ports(ServerConfig(grpc=True, port=taken, probe_port=0))
    assert (grpc.subject, grpc.level) == ("gRPC", "problem")
    assert (probes.subject, probes.level) == ("HTTP (probes)", "ok")
    grpc, http = doctor_ports.ports(ServerConfig(port=0, grpc_port=taken))
    assert grpc.level == "problem"
    assert "--grpc-port" in grpc.do
    # Somebody listens at that port, at an address that this machine has.
    (http,) = doctor_ports.ports(ServerConfig(host="192.0.2.1", insecure=True, port=taken))
    assert http.level == "problem"
    assert http.says.endswith("no address 192.0.2.1")
    assert "--host" in http.do


TABLE = """  sl  local_address rem_address   st ...
   0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1
   1: 0100007F:1388 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1
   2: 00000000:1389 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1
   3: short
"""


def test_who_listens() -> None:
    assert inodes(TABLE, 5000, "127.0.0.1") == {"4711"}
    assert inodes(TABLE, 5000, "0.0.0.0") == {"4711"}
    assert inodes(TABLE, 5000, "127.0.0.2") == set()
    assert inodes(TABLE, 5000, "::1") == set()
    assert inodes(TABLE, 5001, "127.0.0.1") == {"4713"}
    assert inodes(TABLE, 5002, "127.0.0.1") == set()
    assert inodes("", 5000, "127.0.0.1") == set()


@pytest.mark.parametrize(
    ("listening", "wanted", "collides"),
    [
        ("00000000000000000000000000000000", "127.0.0.1", True),
        ("00000000000000000000000000000000", "fe80::1%eth0", True),
        ("00000000000000000000000001000000", "::1", True),
        ("00000000000000000000000001000000", "127.0.0.1", False),
        ("0000000000000000FFFF00000100007F", "127.0.0.1", True),
        ("0000000000000000FFFF00000100007F", "127.0.0.2", False),
    ],
)
def test_who_listens_by_version_6(listening: str, wanted: str, collides: bool) -> None:
    row = f"head\n 0: {listening}:1388 0:0 0A 0:0 0:0 0 0 0 4711 1"
    assert bool(inodes(row, 5000, wanted)) == collides


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("/usr/bin/python3 -m http.server 5000", "python3 -m http.server 5000"),
        ("/v/bin/python /v/bin/open-llm-server start tiny --api-key geheim", None),
        ("redis-server --requirepass geheim", "redis-server"),
        ("serve TOKEN=geheim", "serve"),
        ("", ""),
    ],
)
def test_command_lines_show_no_values_of_options(line: str, shown: str | None) -> None:
    words = shown_command(line.split(" "))
    assert words == (shown if shown is not None else "python open-llm-server start tiny")


@pytest.mark.parametrize(
    ("hard", "level"),
    [(None, "ok"), (1_048_576, "ok"), (4096, "ok"), (1024, "warning"), (24, "problem")],
)
def test_open_files(hard: int | None, level: str) -> None:
    assert judge_files(hard).level == level


def test_few_open_files_mean_few_answers() -> None:
    assert "about 96 answers" in judge_files(256).says
    assert "about 0 answers" in judge_files(10).says


@pytest.mark.parametrize(
    ("answer", "level"),
    [
        (Answer({"missing": None}), "ok"),
        (Answer({"missing": "no filter of system calls"}), "note"),
        (Answer({}, "was ended by signal SIGSYS", "SIGSYS"), "note"),
    ],
)
def test_walls(answer: Answer, level: str) -> None:
    assert judge_walls(answer).level == level


@pytest.mark.parametrize(
    ("free", "limited", "level"),
    [(8 * 10**9, None, "ok"), (8 * 10**9, 8 * 10**9, "ok"), (10**8, 10**8, "warning")],
)
def test_memory(free: int, limited: int | None, level: str) -> None:
    finding = judge_memory(free, 16 * 10**9, limited)
    assert finding.level == level
    assert ("limit of this container" in finding.says) == (limited is not None)


def test_container_engines() -> None:
    (none,) = judge([])
    assert none.level == "note"
    docker, podman = judge([Engine("docker", "28.2.2", "no daemon"), Engine("podman", "4.3.1")])
    assert docker.level == "note"
    assert docker.says == "docker 28.2.2 is there, but no engine answers: no daemon"
    assert docker.do
    assert (podman.level, podman.says) == ("ok", "podman 4.3.1 answers")


def test_gpus_for_containers() -> None:
    assert judge_gpus(0, [], toolkit=False) == []
    (given,) = judge_gpus(1, ["/etc/cdi/nvidia.yaml"], toolkit=True)
    assert given.level == "ok"
    (with_tool,) = judge_gpus(1, [], toolkit=True)
    (without,) = judge_gpus(1, [], toolkit=False)
    assert with_tool.level == without.level == "note"
    assert with_tool.do in without.do


def test_silence(taken: int) -> None:
    assert silence(f"http://127.0.0.1:{taken}", within_s=0.2)
    assert silence("http://127.0.0.1:1", within_s=0.2)
    assert silence("nonsense", within_s=0.2)


@pytest.mark.parametrize(
    ("missing", "models", "level"),
    [(["a"], 1, "problem"), (["a"], 2, "warning"), ([], 1, "warning")],
)
def test_a_hub_that_is_silent(missing: list[str], models: int, level: str) -> None:
    finding = judge_silence("http://hub", "no route", missing, models)
    assert finding.level == level
    assert ("would be fetched" in finding.says) == bool(missing)
