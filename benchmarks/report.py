"""What the benchmark found: rows with a ratio and a target, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """`value` against `target`; `at_least` false: less is better. No target: for information."""

    what: str
    value: float
    unit: str = "x"
    target: float | None = None
    at_least: bool = True
    detail: str = ""

    @property
    def passed(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def line(self, width: int) -> str:
        mark = {True: "pass", False: "MISS", None: ""}[self.passed]
        bound = ""
        if self.target is not None:
            bound = f"{'>=' if self.at_least else '<='} {self.target:g}"
        value = f"{self.value:.3g}" if self.value < 100 else f"{self.value:.0f}"
        return (
            f"{self.what:<{width}}  {value:>7} {self.unit:<5} {bound:>9}  {mark:<4}  {self.detail}"
        )


def ratio_row(
    what: str,
    ours: Sequence[float],
    other: Sequence[float],
    target: float | None,
    *,
    at_least: bool = True,
    unit: str = "tok/s",
) -> Row:
    """The median of the ratios of measurements that were made right after each other."""
    ratios = [mine / yours for mine, yours in zip(ours, other, strict=True)]
    detail = f"{statistics.median(ours):.4g} / {statistics.median(other):.4g} {unit}"
    detail += f", {min(ratios):.2f}-{max(ratios):.2f}"
    return Row(what, statistics.median(ratios), "x", target, at_least, detail)


def machine() -> dict[str, Any]:
    """What ran all this."""
    flags: set[str] = set()
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    telling = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "instructions": [flag for flag in telling if flag in flags],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "llama_cpp": _llama_cpp(),
        "commit": _commit(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def show(rows: Sequence[Row], about: dict[str, Any]) -> str:
    width = max(len(row.what) for row in rows)
    head = (
        f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, "
        f"{' '.join(about['instructions'])}; Python {about['python']}, "
        f"llama-cpp-python {about['llama_cpp']}, commit {about['commit']}, "
        f"load before {about['load_before']}"
    )
    missed = [row.what for row in rows if row.passed is False]
    end = f"{len(missed)} missed: {'; '.join(missed)}" if missed else "every target is met"
    return "\n".join([head, "", *(row.line(width) for row in rows), "", end])


def save(path: Path, rows: Sequence[Row], about: dict[str, Any]) -> None:
    found = [{**asdict(row), "passed": row.passed} for row in rows]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": about, "rows": found}, indent=2) + "\n")


def _llama_cpp() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"
