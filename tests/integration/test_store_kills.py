"""Imports that are killed, that come in crowds, and that fill the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from storing import TAG, write_source

TRIALS = Path(__file__).resolve().parents[1] / "store_trials.py"
HANG_S = 600


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: a kill does not ask for disks, and they are slow."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="olm-store-", dir=memory) as folder:
        yield Path(folder)


def run(trial: str, place: Path, count: int = 0, *, shared: bool = False) -> dict[str, Any]:
    """What `trial` found, with a store and a source in `place`."""
    source = write_source(place / "source", shared=shared)
    done = subprocess.run(
        [sys.executable, str(TRIALS), trial, str(source), str(count)],
        env={**os.environ, "BENTOML_HOME": str(place / "home")},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("trial", "count", "shared"),
    [("kills", 70, False), ("slow-kills", 70, False), ("kills", 60, True)],
)
def test_a_kill_leaves_whole_models_only(place: Path, trial: str, count: int, shared: bool) -> None:
    found = run(trial, place, count, shared=shared)
    assert found["landed"] == count
    assert found["resumed"]  # some of the kills left something that the next try found
    assert found["faults"] == found["at_the_end"] == []
    assert (found["tags"], found["left"]) == ([TAG], [])


def test_of_many_importers_one_works(place: Path) -> None:
    found = run("crowd", place, 8)
    assert sorted({*found["said"]}) == ["brings", "copies", "finds", "waits"]
    assert found["said"].count("copies") == found["said"].count("brings") == 1
    assert found["said"].count("finds") == 7
    assert found["at_the_end"] == []
    assert (found["tags"], found["left"]) == ([TAG], [])


def test_a_killed_importer_is_followed_by_one_that_waited(place: Path) -> None:
    found = run("killed-crowd", place, 4)
    assert (found["said"].count("copies"), found["said"].count("brings")) == (2, 1)
    assert found["said"].count("finds") == 2
    assert found["at_the_end"] == []
    assert (found["tags"], found["left"]) == ([TAG], [])


def test_a_disk_may_be_full_at_any_write(place: Path) -> None:
    found = run("full", place)
    assert found["failed"] > 20
    assert found["faults"] == found["at_the_end"] == []
    assert (found["tags"], found["left"]) == ([TAG], [])
