"""How the supervisor asks a worker whether it is ready."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from .core import InfoRequest
from .frames import Call, Info, encode_call
from .link import RunnerLink
from .supervisor_process import Process
from .supervisor_seat import Probe

TOUCH_EVERY_S = 1.0
"""Several times between two looks of the supervisor."""
_QUESTION = encode_call(Call.of(InfoRequest(), id="supervisor"))


class ModelProbe:
    """Asks a runner, over its socket, what it says of itself."""

    def __init__(self, path: Path, runner_name: str) -> None:
        self._link = RunnerLink(path.as_uri(), name=runner_name)

    async def __call__(self, _: Process) -> bool:
        """Whether the model is loaded; raises Busy or Lost when there is no answer."""
        frames = self._link.stream(_QUESTION)
        async with contextlib.aclosing(frames):
            async for frame in frames:
                if isinstance(frame, Info):
                    return bool(frame.facts.get("ready"))
        return False

    async def close(self) -> None:
        await self._link.close()


def file_probe(folder: Path) -> Probe:
    """For workers that share a socket: each has a file of its own, which it touches.

    From its start on, once and again (see `touch_for_ever`); a file that stayed as it was since
    the last look is no sign of life.
    """
    seen: tuple[int, int] | None = None

    async def probe(process: Process) -> bool:
        nonlocal seen
        found = process.pid, ready_file(folder, process.pid).stat().st_mtime_ns
        if found == seen:
            raise TimeoutError(f"process {process.pid} has not touched its file")
        seen = found
        return True

    return probe


async def touch_for_ever(ready: Path) -> None:
    """On a worker's event loop: whether the file changes says whether the loop turns."""
    while True:
        _touch(ready)
        await asyncio.sleep(TOUCH_EVERY_S)


def _touch(ready: Path) -> None:
    # A full disk is no reason to fall; the supervisor judges.
    with contextlib.suppress(OSError):
        ready.touch()


def ready_file(folder: Path, pid: int) -> Path:
    return folder / f"{pid}.ready"
