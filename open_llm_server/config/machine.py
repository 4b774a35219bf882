"""What this machine has to compute with: processor cores, GPUs. Looks, and loads no library."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_NVIDIA_SMI_TIMEOUT_S = 10


@dataclass(frozen=True)
class Machine:
    """`gpus[i]` is what CUDA_VISIBLE_DEVICES must hold to give a process the GPU number i."""

    cores: int
    gpus: tuple[str, ...] = ()
    mps: bool = False

    def __str__(self) -> str:
        last = len(self.gpus) - 1
        found = ["cpu"]
        if self.gpus:
            found.append("gpu:0" if last == 0 else f"gpu:0 to gpu:{last}")
        return ", ".join([*found, "mps"] if self.mps else found)


def detect(environ: Mapping[str, str], *, gpus: bool) -> Machine:
    """This machine as this process may use it; GPUs are looked for only if `gpus`."""
    apple = sys.platform == "darwin" and os.uname().machine == "arm64"
    found = visible_gpus(environ, count_gpus()) if gpus else ()
    return Machine(cores=usable_cores(), gpus=found, mps=apple)


def visible_gpus(environ: Mapping[str, str], count: int) -> tuple[str, ...]:
    """The ids of the GPUs that an outer CUDA_VISIBLE_DEVICES leaves; numbers or UUIDs."""
    outer = environ.get("CUDA_VISIBLE_DEVICES")
    if outer is None:
        return tuple(map(str, range(count)))
    ids: list[str] = []
    for word in (part.strip() for part in outer.split(",")):
        if not word or word.startswith("-") or (word.isdigit() and int(word) >= count):
            break  # CUDA ignores the first illegal id and all that follow
        ids.append(word)
    return tuple(ids) if count else ()


def count_gpus(proc: Path = Path("/proc/driver/nvidia/gpus")) -> int:
    """How many NVIDIA GPUs the driver shows; 0 without a driver."""
    if proc.is_dir():
        nodes = sum(1 for node in Path("/dev").glob("nvidia[0-9]*"))
        # A container sees every GPU under /proc, and has a node for those that it was given.
        listed = sum(1 for _ in proc.iterdir())
        return min(listed, nodes) if nodes else listed
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--list-gpus"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_NVIDIA_SMI_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(1 for line in answer.stdout.splitlines() if line.startswith("GPU "))


def usable_cores(
    cpus: frozenset[int] | None = None, sys_cpu: Path = Path("/sys/devices/system/cpu")
) -> int:
    """Physical cores that this process may use: by affinity, and by its cgroup's quota."""
    if cpus is None:
        cpus = affinity()
    siblings = {_siblings(sys_cpu, cpu) for cpu in cpus}
    quota = cgroup_quota()
    cores = len(siblings)
    return max(1, cores if quota is None else min(cores, math.floor(quota)))


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What the processor is called, as far as the system says."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for name, _, value in (line.partition(":") for line in lines):
        if name.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def affinity() -> frozenset[int]:
    """The logical processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cgroup_quota(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> float | None:
    """Processors' worth of time this process may take; `None` without a limit."""
    quotas: list[float] = []
    for folder in _cgroup_folders(root, proc):
        try:
            words = (folder / "cpu.max").read_text().split()
            limit, period = words[0], words[1]
        except (OSError, IndexError):
            try:
                limit = (folder / "cpu.cfs_quota_us").read_text().strip()
                period = (folder / "cpu.cfs_period_us").read_text().strip()
            except OSError:
                continue
        if limit.isdigit() and period.isdigit() and int(period):
            quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def _cgroup_folders(root: Path, proc: Path) -> list[Path]:
    """The folders of this process's own cgroup and all above it, version 2 and 1."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    folders = [root, root / "cpu", root / "cpu,cpuacct"]
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        inner = top / path.lstrip("/")
        folders += [inner, *(folder for folder in inner.parents if top in folder.parents)]
    return folders


def _siblings(sys_cpu: Path, cpu: int) -> str:
    """The hardware threads that share a core with `cpu`, or itself where nobody says."""
    try:
        return (sys_cpu / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)
