"""One worker process: how it is started, read, told to stop, and found dead.

Knows processes and pipes; not what the worker serves, nor when it should run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .supervisor_logs import OutputLines

CHILD = Path(__file__).with_name("child.py")
_READ_BYTES = 65_536


@dataclass(frozen=True)
class Command:
    """What to start: arguments of `child.py`, its environment, and the socket it inherits."""

    role: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    descriptor: int

    def line(self) -> list[str]:
        return [sys.executable, os.fspath(CHILD), self.role, str(os.getpid()), *self.arguments]


@dataclass
class Process:
    """A started worker, leader of its own session, so that its own children can be killed too."""

    popen: subprocess.Popen[bytes]
    exited: asyncio.Future[int]
    """Its exit code once it is gone; minus the number of the signal that killed it."""
    output: OutputLines = field(default_factory=OutputLines)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def send(self, number: signal.Signals) -> None:
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill_group(self) -> None:
        """Ends it and whatever it started, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class Nursery:
    """Starts processes and notices their deaths, those of strangers included.

    As process 1 of a container the supervisor inherits every orphan, and must reap it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._living: dict[int, Process] = {}
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def start(self, command: Command, show: Callable[[str], None]) -> Process:
        """`show` is given each line of the worker's output that a person should see."""
        reader, writer = os.pipe()
        try:
            popen = subprocess.Popen(
                command.line(),
                env=dict(command.environment),
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                pass_fds=(command.descriptor,),
                start_new_session=True,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        process = Process(popen, self._loop.create_future())
        self._living[process.pid] = process
        os.set_blocking(reader, False)
        self._loop.add_reader(reader, self._read, reader, process, show)
        process.exited.add_done_callback(lambda _: self._read_rest(reader, process, show))
        return process

    def close(self) -> None:
        """Kills what still lives."""
        self._loop.remove_signal_handler(signal.SIGCHLD)
        for process in list(self._living.values()):
            process.kill_group()
            process.popen.wait()
        self._living.clear()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            process = self._living.pop(pid, None)
            if process is not None:
                code = os.waitstatus_to_exitcode(status)
                # Popen must not wait for a process that is gone.
                process.popen.returncode = code
                process.exited.set_result(code)

    def _read(self, reader: int, process: Process, show: Callable[[str], None]) -> bool:
        """Reads once; tells whether there may be more."""
        try:
            chunk = os.read(reader, _READ_BYTES)
        except BlockingIOError:
            return False
        for line in process.output.push(chunk):
            show(line)
        if not chunk:
            self._loop.remove_reader(reader)
        return bool(chunk)

    def _read_rest(self, reader: int, process: Process, show: Callable[[str], None]) -> None:
        # Not to the end of the file: a process of the worker's own may hold it open.
        while self._read(reader, process, show):
            pass
        self._loop.remove_reader(reader)
        os.close(reader)
        for line in process.output.close():
            show(line)
