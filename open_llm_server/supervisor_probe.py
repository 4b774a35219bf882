"""How the supervisor asks a worker whether it is ready."""

from __future__ import annotations

import contextlib
from pathlib import Path

from .core import InfoRequest
from .frames import Call, Info, encode_call
from .link import RunnerLink
from .supervisor_process import Process
from .supervisor_seat import Probe

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
    """For workers that share a socket: each leaves a file of its own when it has started."""

    async def probe(process: Process) -> bool:
        return ready_file(folder, process.pid).exists()

    return probe


def ready_file(folder: Path, pid: int) -> Path:
    return folder / f"{pid}.ready"
