"""A process that fetches from a hub, and is killed or stopped meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, Fault
from running import HANG_S

from open_llm_server.store import hub

WEIGHTS = os.urandom(12 * 1024**2)
SCRIPT = """
import sys
from pathlib import Path
from open_llm_server.store import hub
from open_llm_server.store.hub_http import Patience
from open_llm_server.store.progress import Meter
patience = Patience(stall_s=600)
remote = hub.describe("org/name", None, patience=patience)
hub.fetch(remote, remote.files, Path(sys.argv[1]), Meter(), patience=patience)
"""


@pytest.fixture
def fake() -> Iterator[FakeHub]:
    with FakeHub() as running:
        running.add("org/name", {"model.gguf": WEIGHTS, "config.json": b"{}"})
        yield running


def start(fake: FakeHub, tmp_path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "stage")],
        env=os.environ | fake.environment(tmp_path / "home"),
        stderr=subprocess.PIPE,
    )


def wait_for_bytes(process: subprocess.Popen[bytes], tmp_path: Path, count: int) -> None:
    """Until that many bytes of weights are on the disk."""
    parts, end = tmp_path / "stage" / hub.PARTS, time.monotonic() + HANG_S
    while not any(p.stat().st_size >= count for p in parts.glob("*")):
        assert process.poll() is None
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)


def test_a_killed_process_loses_next_to_nothing(fake: FakeHub, tmp_path: Path) -> None:
    slow = Fault("drip", times=None, rate=8 * 1024**2)
    fake.fault("org/name", "model.gguf", slow)
    for count in (2, 4, 6):
        process = start(fake, tmp_path)
        wait_for_bytes(process, tmp_path, count * 1024**2)
        process.kill()
        process.communicate()
        assert not (tmp_path / "stage" / "model.gguf").exists()
    slow.rate = 1024**3
    process = start(fake, tmp_path)
    assert process.communicate(timeout=HANG_S)[1] == b""
    assert process.returncode == 0
    assert (tmp_path / "stage" / "model.gguf").read_bytes() == WEIGHTS
    assert sorted(p.name for p in (tmp_path / "stage").iterdir()) == ["config.json", "model.gguf"]
    ranges = [r.headers.get("range", "") for r in fake.requests if r.server == "cdn"]
    starts = [int(found[1]) for text in ranges if (found := re.match(r"bytes=(\d+)-", text))]
    assert len(ranges) == 4
    assert [s >= n * 1024**2 for s, n in zip(starts, (2, 4, 6), strict=True)] == [True] * 3


def test_ctrl_c_ends_a_process_that_waits_for_a_silent_hub(fake: FakeHub, tmp_path: Path) -> None:
    fake.fault("org/name", "model.gguf", Fault("stall", times=None, after=3 * 1024**2))
    process = start(fake, tmp_path)
    wait_for_bytes(process, tmp_path, 2 * 1024**2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=HANG_S)
    assert b"KeyboardInterrupt" in said
    assert process.returncode != 0
    assert not (tmp_path / "stage" / "model.gguf").exists()
    assert any((tmp_path / "stage" / hub.PARTS).iterdir())
