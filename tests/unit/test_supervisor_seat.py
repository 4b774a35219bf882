"""Seats with real processes: small scripts in place of workers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from open_llm_server import supervisor_probe, supervisor_seat
from open_llm_server.errors import StartError
from open_llm_server.supervisor_backoff import Backoff
from open_llm_server.supervisor_probe import file_probe, ready_file, touch_for_ever
from open_llm_server.supervisor_process import Command, Nursery, Process
from open_llm_server.supervisor_seat import Seat, how_it_ended

SLEEP = "import signal; signal.pause()"
HANG_S = 30


@dataclass(frozen=True)
class Script(Command):
    """Runs Python code instead of a worker."""

    code: str = ""

    def line(self) -> list[str]:
        return [sys.executable, "-c", self.code]


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def descriptor() -> Iterator[int]:
    with socket.socket() as held:
        yield held.fileno()


def script(code: str, descriptor: int) -> Script:
    return Script("runner", (), dict(os.environ), descriptor, code)


async def always(_: Process) -> bool:
    return True


async def never(_: Process) -> bool:
    raise ConnectionError


async def until(event: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Waits for an event, and no longer than for the tasks it depends on."""
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED, timeout=HANG_S)
    assert waiting.done(), [task.exception() for task in tasks if task.done()]


async def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_first_start_that_fails_is_an_error_with_the_last_words(
    nursery: Nursery, descriptor: int
) -> None:
    code = "import sys; print('chatter'); sys.exit('error: m: no such weights')"
    seat = Seat("m", script(code, descriptor), never, nursery=nursery)
    with pytest.raises(StartError, match=r"^m: no such weights$"):
        await seat.keep()


async def test_without_last_words_the_last_lines_are_shown(
    nursery: Nursery, descriptor: int
) -> None:
    seat = Seat("m", script("1 / 0", descriptor), never, nursery=nursery)
    with pytest.raises(StartError, match=r"(?s)m: its process ended.*code 1.*ZeroDivisionError"):
        await seat.keep()


async def test_a_dead_worker_is_replaced_with_a_growing_delay_and_a_note(
    nursery: Nursery, descriptor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def died(self: Backoff, *, served_s: float) -> float:
        asked.append(served_s)
        return 0.0 if len(asked) == 1 else 3600.0

    monkeypatch.setattr(Backoff, "died", died)
    note = tmp_path / "m.down"
    seat = Seat("m", script(SLEEP, descriptor), always, nursery=nursery, down_note=note)
    keeper = asyncio.create_task(seat.keep())
    await until(seat.ready, keeper)
    first = seat.process
    assert first is not None
    first.kill_group()
    assert await asyncio.wait_for(asyncio.shield(first.exited), HANG_S) == -signal.SIGKILL
    await eventually(lambda: seat.process is not first)
    assert not note.exists()
    assert seat.process is not None
    seat.process.kill_group()
    await eventually(note.exists)
    said = json.loads(note.read_text())
    assert said["until"] > time.time() + 3000
    assert "SIGKILL" in said["reason"]
    seat.leave(signal.SIGTERM)
    await asyncio.wait_for(keeper, HANG_S)
    assert len(asked) == 2


async def test_a_worker_that_gives_no_sign_is_replaced(
    nursery: Nursery, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_seat, "ASK_EVERY_S", 0.01)
    monkeypatch.setattr(supervisor_seat, "HUNG_AFTER_S", 0.1)
    well: list[Process] = []

    async def once(process: Process) -> bool:
        """Ready at the first question; the first worker then falls silent."""
        if process in well and process is well[0]:
            raise ConnectionError
        well.append(process)
        return True

    seat = Seat("m", script(SLEEP, descriptor), once, nursery=nursery)
    keeper = asyncio.create_task(seat.keep())
    await until(seat.ready, keeper)
    first = seat.process
    assert first is not None
    assert await asyncio.wait_for(asyncio.shield(first.exited), HANG_S) == -signal.SIGKILL
    await eventually(lambda: seat.process is not first)
    seat.leave(signal.SIGTERM)
    await asyncio.wait_for(keeper, HANG_S)


async def test_children_of_a_dead_worker_die_with_it(nursery: Nursery, descriptor: int) -> None:
    """Its session is killed as a whole; a pipe held by the grandchild tells when."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    code = (
        "import os, signal, subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}], pass_fds=[{writer}])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = script(code, writer)
    seat = Seat("m", command, never, nursery=nursery)
    with pytest.raises(StartError):
        await seat.keep()
    os.close(writer)
    assert await asyncio.wait_for(asyncio.to_thread(os.read, reader, 1), HANG_S) == b""
    os.close(reader)


async def test_leaving_during_the_delay_ends_it(
    nursery: Nursery, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "died", lambda self, *, served_s: 3600.0)
    seat = Seat("m", script(SLEEP, descriptor), always, nursery=nursery)
    keeper = asyncio.create_task(seat.keep())
    await until(seat.ready, keeper)
    assert seat.process is not None
    seat.process.kill_group()
    await asyncio.wait_for(asyncio.shield(seat.process.exited), HANG_S)
    seat.leave(signal.SIGTERM)
    await asyncio.wait_for(keeper, HANG_S)


async def test_strangers_are_reaped_too(nursery: Nursery) -> None:
    """As process 1 of a container the supervisor gets every orphan."""
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", ""])  # noqa: ASYNC220 - nobody waits
    await eventually(lambda: not psutil.pid_exists(pid))


def test_ends_in_words() -> None:
    assert how_it_ended(3) == "with exit code 3"
    assert how_it_ended(-9) == "by signal SIGKILL"
    assert how_it_ended(-200) == "by signal 200"


async def test_a_file_that_is_not_touched_is_no_sign_of_life(
    nursery: Nursery, descriptor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_probe, "TOUCH_EVERY_S", 0.001)
    process = nursery.start(script(SLEEP, descriptor), lambda _: None)
    ready = ready_file(tmp_path, process.pid)
    probe = file_probe(tmp_path)
    with pytest.raises(FileNotFoundError):
        await probe(process)
    touching = asyncio.create_task(touch_for_ever(ready))
    await eventually(ready.exists)
    for _ in range(2):
        touched = ready.stat().st_mtime_ns
        assert await probe(process)
        await eventually(lambda: ready.stat().st_mtime_ns > touched + 1)  # noqa: B023 - awaited within the turn of the loop
    touching.cancel()
    await asyncio.wait({touching})
    assert await probe(process)
    with pytest.raises(TimeoutError):
        await probe(process)
