"""Converts pickled weights, in a process that can do nothing else: the work of a child process.

Started by `convert` through `child_process`. Owns the limits that the process puts on itself
before it looks at the files; torch comes after them.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import WeightsError
from .child_work import Say
from .no_network import NotPossible, cut_off

CPU_S, BYTES_PER_CPU_S = 600, 5_000_000
"""Computing time: so much, and so much more for its bytes."""
SIZES = 3
"""Memory, in sizes of the largest file, beyond what torch itself takes."""
ROOM = 2 * 1024**3


def work(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Converts `files` (pairs: pickled, safetensors) of the folder it is in. Raises WeightsError.

    `request`: files, tied_head.
    """
    try:
        # The files made; those beside them may be a person's own under a second name.
        cut_off(Path(request["files"][0][1]).parent)
    except NotPossible as error:
        raise WeightsError(
            "pickled weights are converted only where their process can be kept from the network "
            f"and from other processes, and here it cannot: {error}. Convert them on another Linux "
            "machine, or use a revision that has safetensors"
        ) from error
    sizes = [Path(source).stat().st_size for source, _ in request["files"]]
    _limit_time_and_files(sum(sizes))

    from ..engine.torch_convert import convert_file

    _limit_memory(max(sizes))
    say({"phase": "converting", "total": sum(sizes)})
    for (source, target), size in zip(request["files"], sizes, strict=True):
        left = size

        def told(count: int, source: str = source) -> None:
            nonlocal left
            count = min(count, left)
            left -= count
            say({"done": count, "note": source})

        convert_file(Path(source), Path(target), tied_head=request["tied_head"], told=told)
        told(left)
    return {}


def _limit_time_and_files(size: int) -> None:
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, CPU_S + size // BYTES_PER_CPU_S)
    _limit(resource.RLIMIT_FSIZE, 2 * size + ROOM)


def _limit_memory(largest: int) -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + SIZES * largest + ROOM)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
