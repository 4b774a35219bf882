"""What this processor computes with, as the system says. Knows no engine and no library."""

from __future__ import annotations

from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
F16_FLAGS = frozenset({"amx_fp16", "avx512_fp16"})


@cache
def cpu_flags() -> frozenset[str]:
    """What the CPU says it can do, in the words of Linux; empty on other systems."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def fast_number() -> str:
    """The name of what this CPU computes with fastest: float32, or bfloat16 where it does so
    without emulation."""
    return "bfloat16" if BF16_FLAGS & cpu_flags() else "float32"
