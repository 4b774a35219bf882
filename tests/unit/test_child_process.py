"""Work in a child: its result, its errors, each way that it can end."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import psutil
import pytest

from open_llm_server.errors import WeightsError
from open_llm_server.store.child_process import run
from open_llm_server.store.progress import Meter, Progress


def child(job: str, folder: Path, meter: Meter | None = None, limit_s: float = 60) -> Any:
    return run(
        f"child_jobs:{job}",
        {"number": 7},
        meter or Meter(),
        folder=folder,
        threads=2,
        what="the work",
        limit_s=limit_s,
        way_out="leave it",
    )


def test_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("TZ", "UTC")
    seen: list[Progress] = []
    found = child("tell", tmp_path, Meter(seen.append))
    assert found["request"] == {"number": 7}
    assert Path(found["folder"]) == tmp_path
    assert [(one.phase, one.done, one.total) for one in seen][-1] == ("copying", 3, 3)
    assert seen[0].note == "a [31m"
    environment = found["environment"]
    assert "HF_TOKEN" not in environment
    assert (environment["TZ"], environment["OMP_NUM_THREADS"]) == ("UTC", "2")


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("refuse", r"^it is \[31m wrong; take another$"),
        ("fail", r"ended with status 1 \(ZeroDivisionError: nothing  left\); .*or leave it"),
        ("crash", "the work failed: its process ended by SIGSEGV"),
        ("end", "when memory runs short; try again, or leave it"),
        (
            "miss",
            r"failed: the system answered: No such file or directory \(not there\); .*leave it",
        ),
        ("pretend", "does not answer as it should|ended with status 0"),
        ("babble", "does not answer as it should"),
        ("missing", "ended with status 1"),
    ],
)
def test_it_says_how_it_ended(job: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=words):
        child(job, tmp_path)


def test_a_full_disk_is_said_as_the_system_says_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space \[31m left") as caught:
        child("fill", tmp_path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/some/file")


def test_a_limit_of_time(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not done after 0 minutes"):
        child("wait", tmp_path, limit_s=1.0)


def test_whoever_is_told_can_end_it(tmp_path: Path) -> None:
    pids: list[int] = []

    def stop(progress: Progress) -> None:
        pids.append(int(progress.note))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child("wait", tmp_path, Meter(stop))
    assert not psutil.pid_exists(pids[0])
