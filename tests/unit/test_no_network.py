"""A process that is cut off has no network, no programs, no way to other processes, and one folder
to write in; threads it keeps."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from open_llm_server.store import no_network

TRIES = """
import ctypes, json, os, resource, socket, subprocess, sys, threading
from pathlib import Path
from open_llm_server.store.no_network import cut_off

no_network = sys.modules["open_llm_server.store.no_network"]
{before}
folder = Path({folder!r})
cut_off(folder / "own")


def connect():
    socket.create_connection(("127.0.0.1", {port}), timeout=5)


def connect_here():
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "socket"))


def limit_parent():
    resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))


def signal_thread():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(234 if os.uname().machine == "x86_64" else 131, os.getppid(), os.getppid(), 0):
        raise OSError(ctypes.get_errno(), "tgkill")


def spawn():
    os.posix_spawn("/bin/true", ["true"], {{}})


found = {{}}
for name, attempt in {{
    "connect": connect,
    "connect_here": connect_here,
    "limit": limit_parent,
    "signal_thread": signal_thread,
    "memory": lambda: open(f"/proc/{{os.getppid()}}/mem", "r+b"),
    "write": lambda: (folder / "outside").write_bytes(b"x"),
    "change": lambda: (folder / "linked").open("r+b"),
    "rename": lambda: (folder / "linked").rename(folder / "own" / "linked"),
    "remove": lambda: (folder / "linked").unlink(),
    "pair": socket.socketpair,
    "fork": os.fork,
    "spawn": spawn,
    "run": lambda: subprocess.run(["true"]),
    "signal": lambda: os.kill(os.getppid(), 0),
    "exec": lambda: os.execv("/bin/true", ["true"]),
}}.items():
    if name not in {names!r}:
        continue
    try:
        attempt()
        found[name] = "done"
    except OSError as error:
        found[name] = type(error).__name__
(folder / "own" / "made").write_bytes(b"made")
(folder / "own" / "made").replace(folder / "own" / "renamed")
open(os.devnull, "w").close()
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
threads = []
thread = threading.Thread(target=threads.append, args=(1,))
thread.start()
thread.join()
os._exit(print(json.dumps([found, threads]), flush=True) or 0)
"""


ALL = (
    *("connect", "connect_here", "pair", "fork", "spawn", "run", "exec"),
    *("signal", "signal_thread", "limit", "memory"),
)
WRITING = ("write", "change", "rename", "remove")


def attempts(port: int, folder: Path, *names: str, before: str = "") -> list[object]:
    (folder / "own").mkdir()
    (folder / "linked").write_bytes(b"a person's")
    os.link(folder / "linked", folder / "own" / "linked-too")
    script = TRIES.format(port=port, names=names, before=before, folder=str(folder))
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, timeout=60
    )
    answer: list[object] = json.loads(done.stdout)
    return answer


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def landlock() -> bool:
    """Whether the kernel has it, for processes like this one."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(444, None, ctypes.c_size_t(0), 1) > 0)


def user_namespaces() -> bool:
    code = "import ctypes; raise SystemExit(ctypes.CDLL(None).unshare(0x10000000))"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


linux = pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux's")


@linux
def test_nothing_leads_out(port: int, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        found, threads = attempts(port, tmp_path, *ALL)
    assert isinstance(found, dict)
    assert found == dict.fromkeys(ALL, "PermissionError")
    assert threads == [1]


@linux
@pytest.mark.skipif(not landlock(), reason="this kernel has no Landlock")
def test_one_folder_can_be_written(port: int, tmp_path: Path) -> None:
    found, _ = attempts(port, tmp_path, *WRITING)
    assert isinstance(found, dict)
    assert set(found) == {*WRITING}
    assert {*found.values()} <= {"PermissionError", "OSError"}  # EXDEV, of a rename
    assert sorted(path.name for path in tmp_path.iterdir()) == ["linked", "own"]
    names = sorted(path.name for path in (tmp_path / "own").iterdir())
    assert names == ["linked-too", "renamed"]


@linux
@pytest.mark.parametrize("wall", ["namespace", "landlock"])
def test_parents_are_out_of_reach_without(wall: str, port: int, tmp_path: Path) -> None:
    """By capabilities or by a user namespace, which are there for root or for everybody."""
    without = {
        "namespace": "no_network._empty_namespace = lambda libc: 'none'",
        "landlock": "no_network.write_only_below = lambda folder, libc: 'none'",
    }
    if wall == "landlock" and os.geteuid() and not user_namespaces():
        pytest.skip("what is left here is refused: no Landlock, no user namespaces, not root")
    if wall == "namespace" and not landlock():
        pytest.skip("this kernel has no Landlock")
    found, _ = attempts(port, tmp_path, *ALL, before=without[wall])
    assert found == dict.fromkeys(ALL, "PermissionError")


@linux
def test_a_parent_in_reach_is_refused(port: int, tmp_path: Path) -> None:
    before = "no_network._empty_namespace = lambda libc: 'no namespace'\n"
    before += "no_network.write_only_below = lambda folder, libc: 'no Landlock'\n"
    before += "no_network._drop_capabilities = lambda libc: None"
    try:
        Path(f"/proc/{os.getpid()}/mem").open("r+b").close()
        with pytest.raises(subprocess.CalledProcessError) as caught:
            attempts(port, tmp_path, before=before)
    except OSError as error:
        pytest.skip(f"nobody can here: {error}")
    if b"NotPossible" not in caught.value.stderr:
        pytest.skip("this kernel lets no process look into another of the same person's")
    assert b"other processes' memory (no namespace; no Landlock)" in caught.value.stderr


@linux
def test_without_the_filter_nothing_happens(port: int, tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        attempts(port, tmp_path, before="no_network.platform.machine = lambda: 'vax'")
    assert b"NotPossible: no filter of system calls is known for vax" in caught.value.stderr
    assert not [*(tmp_path / "own").glob("made")]


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(no_network.NotPossible, match="no way"):
        no_network.cut_off(tmp_path)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_judges_calls(machine: str) -> None:
    """Runs the filter as the kernel would."""
    code = no_network.program(machine)
    lines = [code[at : at + 8] for at in range(0, len(code), 8)]
    forbidden = no_network._FORBIDDEN[machine]
    clone = no_network._CLONE[machine]
    architecture = no_network._ARCHITECTURES[machine]

    def verdict(number: int, argument: int = 0, arch: int = architecture) -> int:
        return judge(lines, {0: number, 4: arch, 16: argument})

    assert {verdict(number) for number in forbidden} == {no_network._FAIL | 1}
    assert verdict(clone, no_network.CLONE_THREAD | 0x100) == no_network._ALLOW
    assert verdict(clone, 0x100) == no_network._FAIL | 1
    limit = no_network._LIMIT[machine]
    assert (verdict(limit, 0), verdict(limit, 1)) == (no_network._ALLOW, no_network._FAIL | 1)
    assert verdict(435) == no_network._FAIL | 38
    assert verdict(63) == no_network._ALLOW
    assert verdict(63, arch=0x40000003) == no_network._KILL


def judge(lines: list[bytes], call: dict[int, int]) -> int:
    """What a filter of `lines` says of `call`: values by their place."""
    held, at = 0, 0
    while True:
        operation = int.from_bytes(lines[at][:2], sys.byteorder)
        yes, no = lines[at][2], lines[at][3]
        value = int.from_bytes(lines[at][4:], sys.byteorder)
        at += 1
        if operation == no_network._LOAD:
            held = call[value]
        elif operation == no_network._RETURN:
            return value
        else:
            tests = {
                no_network._EQUAL: held == value,
                no_network._AT_LEAST: held >= value,
                no_network._HAS_BITS: bool(held & value),
            }
            at += yes if tests[operation] else no
