"""The torch engine on a GPU, beside transformers' `generate` and its continuous batching.

Everybody runs in a process of its own, without a server. `python -m benchmarks.torch_gpu` needs
no more than torch, transformers and this package; `python -m benchmarks torch --gpu` is the same.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack

from . import report
from .report import Row, ratio_row
from .torch_bare import Bare, Place, bare
from .torch_models import FLAN_T5_XL, PYTHIA_2B8, Checkpoint, Words, cached

DEVICE = "cuda:0"
STREAMS = {1: 2, 16: 2, 64: 1}
"""Streams -> batches of so many in a round."""


def need_gpu() -> None:
    """Ends the program with one line where there is none."""
    asked = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([sys.executable, "-c", asked], capture_output=True).returncode:
        sys.exit(
            "error: torch sees no GPU here; this measures on one (CUDA), and without --gpu on the "
            "CPU"
        )


def run(*, threads: int, rounds: int) -> list[Row]:
    """Every row of the table, for both checkpoints."""
    rows = []
    for checkpoint in (FLAN_T5_XL, PYTHIA_2B8):
        kinds = ["generate", "engine", *([] if checkpoint.encodes else ["batches"])]
        place = Place(cached(checkpoint), threads, device=DEVICE, streams=max(STREAMS))
        rates: dict[tuple[str, int], list[float]] = defaultdict(list)
        with ExitStack() as stack:
            loops = [stack.enter_context(bare(kind, place, {})) for kind in kinds]
            _round(loops, Words(checkpoint, seed=0), rates)  # warms up
            rates.clear()
            for number in range(rounds):
                _round(loops, Words(checkpoint, seed=1000 + number), rates)
                print(f"{checkpoint.label}: round {number + 1} of {rounds}", file=sys.stderr)
        rows += _rows(checkpoint, kinds, rates)
    return rows


def _round(loops: Sequence[Bare], words: Words, rates: dict[tuple[str, int], list[float]]) -> None:
    for streams, count in STREAMS.items():
        for loop in loops:
            done = [
                loop.measure([prompt.tokens for prompt in words.prompts(streams)])
                for _ in range(count)
            ]
            seconds = sum(one.seconds for one in done)
            rates[loop.kind, streams].append(sum(one.tokens for one in done) / seconds)


def _rows(
    checkpoint: Checkpoint, kinds: Sequence[str], rates: dict[tuple[str, int], list[float]]
) -> list[Row]:
    names = {"generate": "generate on a batch", "batches": "transformers' continuous batching"}
    return [
        ratio_row(
            f"GPU, {checkpoint.label}, {streams} streams: engine over {names[kind]}",
            rates["engine", streams], rates[kind, streams], None,
        )
        for streams in STREAMS
        for kind in kinds
        if kind in names
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torch_gpu", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    need_gpu()
    rows = run(threads=chosen.threads, rounds=chosen.rounds)
    print(report.show(rows, report.machine()))


if __name__ == "__main__":
    main()
