"""A process that is cut off has no network and starts no programs; threads and files it keeps."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from open_llm_server.store import no_network

TRIES = """
import json, os, socket, subprocess, sys, threading
from open_llm_server.store.no_network import NotPossible, cut_off

no_network = sys.modules["open_llm_server.store.no_network"]
{before}
cut_off()


def connect():
    socket.create_connection(("127.0.0.1", {port}), timeout=5)


def spawn():
    os.posix_spawn("/bin/true", ["true"], {{}})


found = {{}}
for name, attempt in {{
    "connect": connect,
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
threads = []
thread = threading.Thread(target=threads.append, args=(1,))
thread.start()
thread.join()
os._exit(print(json.dumps([found, threads]), flush=True) or 0)
"""


ALL = ("connect", "pair", "fork", "spawn", "run", "signal", "exec")


def attempts(port: int, *names: str, before: str = "") -> list[object]:
    script = TRIES.format(port=port, names=names, before=before)
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


linux = pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux's")


@linux
def test_nothing_leads_out(port: int) -> None:
    found, threads = attempts(port, *ALL)
    assert isinstance(found, dict)
    assert found == dict.fromkeys(ALL, "PermissionError")
    assert threads == [1]


@linux
def test_the_namespace_alone_keeps_the_network_away(port: int) -> None:
    try:
        found, _ = attempts(
            port, "connect", before="no_network._filter_calls = lambda libc: 'no filter'"
        )
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode()[-200:]}")
    assert isinstance(found, dict)
    assert found["connect"] not in ("done", "PermissionError")


@linux
def test_without_both_walls_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_network, "_empty_namespace", lambda libc: "no namespace")
    monkeypatch.setattr(no_network, "_filter_calls", lambda libc: "no filter")
    with pytest.raises(no_network.NotPossible, match="no namespace; no filter"):
        no_network.cut_off()


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(no_network.NotPossible, match="no way"):
        no_network.cut_off()


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
