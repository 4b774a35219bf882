"""`start()` from scripts: what a script's end does to its server."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TypeAlias

import httpx
import psutil
import pytest
from running import HANG_S

import open_llm_server
from open_llm_server.serving import start

pytestmark = pytest.mark.server
Script: TypeAlias = "subprocess.Popen[str]"
RunScript: TypeAlias = Callable[[str], Script]
START = "import open_llm_server as olm, sys\nserver = olm.start('fake', port=0)\n"
TELL = "print(server.url, server.pid, flush=True)\n"


@pytest.fixture
def script() -> Iterator[RunScript]:
    running: list[Script] = []

    def run(code: str) -> Script:
        process = subprocess.Popen(
            [sys.executable, "-c", START + TELL + code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate(timeout=HANG_S)


def told(process: Script) -> tuple[str, psutil.Process]:
    assert process.stdout is not None
    url, pid = process.stdout.readline().split()
    return url, psutil.Process(int(pid))


def answers(url: str) -> bool:
    return httpx.get(f"{url}/livez", timeout=HANG_S).status_code == 200


def test_start_gives_a_server_that_stops_with_its_block() -> None:
    with open_llm_server.start("fake", port=0) as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.url)
        assert answers(server.url)
        supervisor = psutil.Process(server.pid)
        processes = [supervisor, *supervisor.children(recursive=True)]
    assert psutil.wait_procs(processes, HANG_S)[1] == []
    server.stop()  # again does no harm
    assert server.wait() == 0


def test_models_may_be_a_list() -> None:
    with start(["one=fake", "two=fake"], port=0, sets=["one.reply_tokens=2"]) as server:
        names = {entry["id"] for entry in httpx.get(f"{server.url}/v1/models").json()["data"]}
    assert names == {"one", "two"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_script_that_has_ended_serves_on_until_told_to_stop(
    script: RunScript, number: signal.Signals
) -> None:
    process = script("print('last line', flush=True)\n")
    url, supervisor = told(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "last line\n"
    assert answers(url)
    process.send_signal(number)
    assert process.wait(HANG_S) == (0 if number == signal.SIGINT else -number)
    assert psutil.wait_procs([supervisor], HANG_S)[1] == []


@pytest.mark.parametrize("end", ["1 / 0", "server.stop()", "import os; os._exit(3)"])
def test_a_script_that_failed_or_stopped_its_server_serves_no_more(
    script: RunScript, end: str
) -> None:
    process = script(f"sys.stdin.read()\n{end}\n")
    url, supervisor = told(process)
    assert answers(url)
    process.communicate(timeout=HANG_S)
    assert psutil.wait_procs([supervisor], HANG_S)[1] == []


def test_a_killed_script_takes_its_server_along(script: RunScript) -> None:
    process = script("sys.stdin.read()\n")
    _, supervisor = told(process)
    workers = supervisor.children(recursive=True)
    process.kill()
    assert psutil.wait_procs([supervisor, *workers], HANG_S)[1] == []


def test_block_waits_for_the_end(script: RunScript) -> None:
    process = script("server.stop()\nolm.start('fake', port=0, block=True)\nprint('ended')\n")
    told(process)
    assert process.stderr is not None
    ready = 0
    while ready < 2:  # the second server is the blocking one
        ready += process.stderr.readline().startswith("Open LLM server on http")
    (supervisor,) = psutil.Process(process.pid).children()
    supervisor.terminate()
    stdout, stderr = process.communicate(timeout=HANG_S)
    assert stdout == "ended\n"
    assert process.returncode == 0
    assert "Traceback" not in stderr
