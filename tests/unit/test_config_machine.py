"""What is found out about the machine, from files as kernels and drivers write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from open_llm_server.config.machine import (
    affinity,
    cgroup_quota,
    count_gpus,
    detect,
    usable_cores,
    visible_gpus,
)


@pytest.mark.parametrize(
    ("outer", "count", "visible"),
    [
        (None, 3, ("0", "1", "2")),
        (None, 0, ()),
        ("", 3, ()),
        ("-1", 3, ()),
        ("2,0", 3, ("2", "0")),
        ("1,-1,0", 3, ("1",)),
        ("1,7,0", 3, ("1",)),
        ("GPU-ab, MIG-cd", 1, ("GPU-ab", "MIG-cd")),
        ("0", 0, ()),
    ],
)
def test_visible_gpus(outer: str | None, count: int, visible: tuple[str, ...]) -> None:
    environ = {} if outer is None else {"CUDA_VISIBLE_DEVICES": outer}
    assert visible_gpus(environ, count) == visible


def test_gpus_are_counted_from_the_driver(tmp_path: Path) -> None:
    if list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine's own GPUs are counted as well")
    for number in range(2):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
    assert count_gpus(tmp_path) == 2


def test_gpus_are_counted_by_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho 'GPU 1: A (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert count_gpus(tmp_path / "no-driver") == 2
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert count_gpus(tmp_path / "no-driver") == 0


def test_hardware_threads_of_a_core_count_once(tmp_path: Path) -> None:
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{siblings}\n")
    limit = cgroup_quota() or 1000
    assert usable_cores(frozenset({0, 1, 2, 3}), tmp_path) == min(2, max(1, int(limit)))
    assert usable_cores(frozenset({0, 2}), tmp_path) == 1
    assert usable_cores(frozenset({8, 9}), tmp_path) == min(2, max(1, int(limit)))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a", {"a/cpu.max": "50000 100000", "cpu.max": "400000 100000"}, 0.5),
        ("3:cpu,cpuacct:/x", {"cpu,cpuacct/x/cpu.cfs_quota_us": "-1"}, None),
        (
            "3:cpu,cpuacct:/x",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "300000",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
        ("nonsense", {}, None),
    ],
)
def test_quotas(tmp_path: Path, cgroup: str, files: dict[str, str], quota: float | None) -> None:
    root = write(tmp_path / "cgroup", files)
    proc = write(tmp_path / "proc", {"self/cgroup": f"{cgroup}\n"})
    assert cgroup_quota(root, proc) == quota


def test_no_cgroup_at_all(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path / "none", tmp_path / "none") is None


def test_this_machine() -> None:
    machine = detect({}, gpus=False)
    assert 1 <= machine.cores <= len(affinity())
    assert machine.gpus == ()
    assert str(machine).startswith("cpu")
