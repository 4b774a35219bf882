"""How long `start` takes until an imported model answers, beside a bare load of the same file.

    python -m benchmarks.ready [--rounds N]

Both in fresh processes, in turn, with the file in the page cache. The bare load is a Python process
that loads the GGUF with llama.cpp's binding and makes a context of the same size.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from . import report
from .models import cached
from .report import Row
from .servers import CONTEXT, SLOTS, ours

LIMIT_S = 2.0
LOAD = (
    "import sys; from pathlib import Path; from benchmarks.bare import Loop;"
    "Loop(Path(sys.argv[1]), streams=int(sys.argv[2]), threads=int(sys.argv[3]), unified=False)"
)


def run(*, rounds: int, threads: int) -> list[Row]:
    """Imports the benchmark's model into a store of its own, and starts it from there."""
    weights = cached()
    home = Path(tempfile.mkdtemp(prefix="store-", dir=weights.parent))
    try:
        with patch.dict(os.environ, {"BENTOML_HOME": str(home)}):
            tag = _imported(weights)
            bare, ready = [], []
            for _ in range(rounds):
                bare.append(_bare(weights, threads))
                ready.append(_ready(f"llama@store:{tag}", threads))
    finally:
        shutil.rmtree(home)
    added = [mine - theirs for mine, theirs in zip(ready, bare, strict=True)]
    return [
        Row(
            "start to ready beyond a bare load, imported GGUF",
            statistics.median(added),
            "s",
            LIMIT_S,
            at_least=False,
            detail=f"bare {statistics.median(bare):.1f} s, ready {statistics.median(ready):.1f} s",
        )
    ]


def _imported(weights: Path) -> str:
    from open_llm_server import import_model

    return str(import_model(f"llama@{weights}").tag)


def _bare(weights: Path, threads: int) -> float:
    words = [sys.executable, "-c", LOAD, str(weights), str(SLOTS), str(threads)]
    began = time.monotonic()
    subprocess.run(words, check=True)
    return time.monotonic() - began


def _ready(model: str, threads: int) -> float:
    options = ["--slots", str(SLOTS), "--context-length", str(CONTEXT), "--threads", str(threads)]
    began = time.monotonic()
    with ours(model, options):
        return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.ready", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    rows = run(rounds=chosen.rounds, threads=chosen.threads)
    print(report.show(rows, report.machine()))
    return 1 if any(row.passed is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
