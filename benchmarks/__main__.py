"""`python -m benchmarks`: everything in one run, as ratios, with pass or miss for each target.

Set LLAMA_SERVER to the path of a llama-server binary to compare with it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path

from . import (
    batching,
    container,
    doors,
    front,
    gate,
    importing,
    ready,
    report,
    serve,
    torch_gpu,
    torch_serve,
)
from .models import BUILD, cached

PARTS = ("serve", "front", "batching", "torch", "store", "doors", "container")


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3, help="of the interleaved measurements")
    parser.add_argument("--json", type=Path, default=BUILD / "results.json")
    parser.add_argument("--gpu", action="store_true", help="part torch on a GPU instead")
    chosen = parser.parse_args()
    # A stopped run ends the servers that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parts = chosen.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {PARTS}")
    if chosen.gpu:
        if chosen.parts != ["torch"]:
            parser.error("--gpu is for part torch alone")
        torch_gpu.need_gpu()
    if "container" in parts and not shutil.which(container.ENGINE):
        print("podman is not installed: part container is left out", file=sys.stderr)
        parts = [part for part in parts if part != "container"]
    peer = os.environ.get("LLAMA_SERVER")
    if peer is None and "serve" in parts:
        print("LLAMA_SERVER names no llama-server: it is left out", file=sys.stderr)
    about, started = report.machine(), time.monotonic()
    rows = _measure(parts, chosen, peer)
    about["seconds"] = round(time.monotonic() - started)
    report.save(chosen.json, rows, about)
    print(report.show(rows, about))
    print(f"saved as {chosen.json}")
    return 1 if any(row.passed is False for row in rows) else 0


def _measure(
    parts: Collection[str], chosen: argparse.Namespace, peer: str | None
) -> list[report.Row]:
    rows: list[report.Row] = []
    if "serve" in parts:
        rows += serve.run(cached(), threads=chosen.threads, rounds=chosen.rounds, peer=peer)
    if "front" in parts:
        rows += front.run()
    if "batching" in parts:
        rows += batching.run(chosen.threads)
    if "torch" in parts and chosen.gpu:
        rows += torch_gpu.run(threads=chosen.threads, rounds=chosen.rounds)
    elif "torch" in parts:
        rows += torch_serve.run(threads=chosen.threads, rounds=chosen.rounds)
    if "store" in parts:
        rows += gate.run(chosen.rounds) + importing.run(chosen.rounds)
        rows += ready.run(rounds=chosen.rounds, threads=chosen.threads)
    if "doors" in parts:
        rows += doors.run(cached(), threads=chosen.threads, rounds=chosen.rounds)
    if "container" in parts:
        rows += container.run(cached(), threads=chosen.threads, rounds=chosen.rounds)
    return rows


if __name__ == "__main__":
    sys.exit(main())
