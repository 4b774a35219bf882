"""Importing a local model beside `cp` and `sha256sum`: `python -m benchmarks.importing`.

They take turns on one file, which is in the page cache from the start. A round imports it as a copy
and as a link, and runs `cp`, then `sha256sum`; the target counts both one after the other. Ours is
on the disk at its end, so `cp` followed by `sync` of the copy stands beside it for information; so
does hashing by Python's library, because coreutils are not built with the fastest code everywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from unittest.mock import patch

from open_llm_server import __version__
from open_llm_server.store import local, remove
from open_llm_server.store.manifest import Entry, Manifest
from open_llm_server.store.progress import Meter
from open_llm_server.store.stage import stage

from . import report

TARGET = 0.8
SIZE = 10**9
BLOCK = 16 * 1024**2
SHARED, OPEN = 0o644, 0o664
"""Modes of the source: one that may be linked to, and one that others may write to."""


def import_file(source: Path) -> Entry:
    """The store's part of an import: everything but looking into the weights."""
    meter = Meter()
    with stage("benchmark", meter=meter) as staged:
        staged.reserve(local.bytes_to_copy(source.parent, [source.name], staged.folder))
        files = local.bring(source.parent, [source.name], staged.folder, meter)
        return staged.publish(
            Manifest(
                tag="benchmark:one",
                family="llama",
                weights="gguf",
                kind="path",
                location=str(source),
                main=source.name,
                imported_at=datetime.now(timezone.utc),
                files=tuple(files),
                server=__version__,
            )
        )


def seconds(work: Callable[[], object]) -> float:
    """With nothing left to write when it begins."""
    os.sync()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def imported(source: Path, mode: int) -> float:
    source.chmod(mode)
    found: list[Entry] = []
    took = seconds(lambda: found.append(import_file(source)))
    remove.remove(found[0])
    return took


def copied(source: Path, target: Path) -> tuple[float, float, float, float]:
    """Seconds of `cp`, of `sync` after it, of `sha256sum`, and of hashing in Python."""
    copying = seconds(lambda: call("cp", source, target))
    began = time.perf_counter()
    call("sync", target)
    syncing = time.perf_counter() - began
    hashing = seconds(lambda: call("sha256sum", source))
    python = seconds(lambda: hashed(source))
    target.unlink()
    return copying, syncing, hashing, python


def hashed(source: Path) -> None:
    """With what Python is linked to, which knows the processor's own instructions for it."""
    found, block = hashlib.sha256(), bytearray(BLOCK)
    with source.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            found.update(memoryview(block)[:count])


def call(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure(folder: Path, size: int, rounds: int) -> list[report.Row]:
    source = folder / "source" / "model.gguf"
    source.parent.mkdir()
    with source.open("wb") as file:
        for _ in range(max(1, size // BLOCK)):
            file.write(os.urandom(BLOCK))
    copies, links, plain, synced, fast = [], [], [], [], []
    for _ in range(rounds):
        copies.append(imported(source, OPEN))
        copying, syncing, hashing, python = copied(source, folder / "copy")
        plain.append(copying + hashing)
        fast.append(copying + python)
        synced.append(copying + syncing + hashing)
        links.append(imported(source, SHARED))
    size = source.stat().st_size
    copy, link, cp, cp_sync, cp_fast = (
        [size / 1e6 / took for took in each] for each in (copies, links, plain, synced, fast)
    )
    return [
        report.ratio_row("copy: over cp + sha256sum", copy, cp, TARGET, unit="MB/s"),
        report.ratio_row("copy: over cp + sync + sha256sum", copy, cp_sync, None, unit="MB/s"),
        report.ratio_row("copy: over cp + hashlib", copy, cp_fast, None, unit="MB/s"),
        report.ratio_row("link: over cp + sha256sum", link, cp, TARGET, unit="MB/s"),
    ]


def run(rounds: int, *, size: int = SIZE, folder: Path | None = None) -> list[report.Row]:
    """`folder`: on the disk to measure; default: that of TMPDIR."""
    with (
        tempfile.TemporaryDirectory(prefix="olm-importing-", dir=folder) as name,
        patch.dict(os.environ, {"BENTOML_HOME": str(Path(name, "home"))}),
    ):
        return measure(Path(name), size, rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.importing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bytes", type=int, default=SIZE, help="of the file")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: of TMPDIR")
    chosen = parser.parse_args(arguments)
    about = report.machine()
    rows = run(chosen.rounds, size=chosen.bytes, folder=chosen.folder)
    print(report.show(rows, about))
    return 1 if any(row.passed is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
