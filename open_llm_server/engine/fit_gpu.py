"""How much memory GPUs have free, as their driver says, and whether torch here can use them.

Loads no library: asks the driver's own tool, in a process that ends.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from .fit_sizes import MIB

TOOL = "nvidia-smi"
_TIMEOUT_S = 10
_BUILT_FOR = re.compile(r"^(?:cuda|hip)\b[^=]*= *'", re.MULTILINE)


def ask() -> dict[str, int]:
    """Free bytes by number and by UUID; nothing for those that do not say."""
    try:
        answer = subprocess.run(
            [TOOL, "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return {}
    known: dict[str, int] = {}
    for line in answer.stdout.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == 3 and words[2].isdigit():
            known |= dict.fromkeys(words[:2], int(words[2]) * MIB)
    return known


def total(gpus: Sequence[str], known: Mapping[str, int]) -> int | None:
    """Bytes free on all of `gpus` together, named as in CUDA_VISIBLE_DEVICES: numbers or UUIDs.

    `known`: what `ask` answered. `None` where one of them does not say.
    """
    found = [_one(gpu, known) for gpu in gpus]
    free = [count for count in found if count is not None]
    return sum(free) if free and len(free) == len(found) else None


def torch_uses_gpus() -> bool:
    """Whether the torch that is installed is built for GPUs; by a small file of it."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return bool(_BUILT_FOR.search(text))


def _one(gpu: str, known: Mapping[str, int]) -> int | None:
    if gpu in known:
        return known[gpu]
    # The beginning of a UUID is enough for CUDA.
    found = [free for name, free in known.items() if name.startswith(gpu) and not gpu.isdigit()]
    return found[0] if len(found) == 1 else None
