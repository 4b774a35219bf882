"""The GPUs as their driver has them. `judge` and `rows` are pure.

What torch and llama.cpp make of them is those engines' own check.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cli_figures import size
from .config.machine import count_gpus
from .doctor_finding import Case, Finding
from .engine.fit_gpu import TOOL
from .engine.fit_sizes import MIB

_TIMEOUT_S = 10
_QUERY = "index,name,memory.total,memory.free,driver_version"


@dataclass(frozen=True)
class Gpu:
    """Memory in bytes; `None`: the driver does not say."""

    index: str
    name: str
    memory: int | None
    free: int | None
    driver: str


def check(_: Case) -> list[Finding]:
    nodes = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return judge(count_gpus(), nodes, *_ask_driver())


def judge(count: int, nodes: int, gpus: Sequence[Gpu], fault: str | None) -> list[Finding]:
    """`count`: of the driver's GPUs; `nodes`: of devices under /dev; `fault`: why nvidia-smi says
    nothing, empty where there is no such command."""
    if gpus:
        return [_told(gpu) for gpu in gpus]
    if fault:
        return [
            Finding(
                "warning",
                "driver",
                f"{TOOL} fails: {fault}",
                "restart the machine if the driver was updated, else install it again",
            )
        ]
    if count:
        says = f"the driver has {count}, and {TOOL} is not there to say more"
        do = "install the driver's tools, or memory of GPUs is not known before models are loaded"
        return [Finding("note", "driver", says, do)]
    if nodes:
        says = "/dev has nodes of NVIDIA GPUs, and no driver answers behind them"
        return [Finding("warning", "driver", says, "install the driver, or restart the machine")]
    return [Finding("ok", "GPU", "no NVIDIA GPU: models compute on the CPU")]


def rows(text: str) -> list[Gpu]:
    """What nvidia-smi answers to the query; lines of another kind are passed over."""
    found = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == len(_QUERY.split(",")):
            index, name, memory, free, driver = words
            found.append(Gpu(index, name, _bytes(memory), _bytes(free), driver))
    return found


def _told(gpu: Gpu) -> Finding:
    memory = "memory not told" if gpu.memory is None else size(gpu.memory)
    free = "" if gpu.free is None else f", {size(gpu.free)} free"
    return Finding("ok", f"GPU {gpu.index}", f"{gpu.name}, {memory}{free}, driver {gpu.driver}")


def _bytes(word: str) -> int | None:
    return int(word) * MIB if word.isdigit() else None


def _ask_driver() -> tuple[list[Gpu], str | None]:
    try:
        done = subprocess.run(
            [TOOL, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return [], f"no answer within {_TIMEOUT_S} s"
    except OSError:
        return [], None
    found = rows(done.stdout)
    if done.returncode == 0 or found:
        return found, None
    words = (done.stdout + done.stderr).strip().splitlines()
    return [], words[0] if words else f"exit code {done.returncode}"
