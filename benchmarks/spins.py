"""How long OpenMP threads should look for work before they sleep: `python -m benchmarks.spins`.

Runs the bare engine in a child for each GOMP_SPINCOUNT, on a machine as quiet as it is, and once
more beside busy processes, one for each core. `config.devices.SPINS` was chosen by this.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from open_llm_server.engine.base import Batch, Draw, Row
from open_llm_server.engine.llama_cpp import LlamaCppEngine

from .models import cached

SPINS = ("default", "0", "1000", "4000", "10000")
PROMPT = 24
STEPS = {1: 60, 16: 12}
"""Sequences -> steps measured."""


def tokens_per_s(engine: LlamaCppEngine, sequences: int, steps: int) -> float:
    """Greedy decoding of `sequences` prompts side by side."""
    draws = [Draw(prompt=[1]) for _ in range(sequences)]
    rows = [Row(n, list(range(10 + n, 10 + n + PROMPT)), 0, draws[n]) for n in range(sequences)]
    outcomes = engine.step(Batch(trims=[(n, 0) for n in range(sequences)], rows=rows))
    began = time.perf_counter()
    for step in range(steps):
        rows = [
            Row(n, [outcome.token or 0], PROMPT + step, draws[n])
            for n, outcome in enumerate(outcomes)
        ]
        outcomes = engine.step(Batch(rows=rows))
    return sequences * steps / (time.perf_counter() - began)


def child(path: Path, threads: int) -> None:
    engine = LlamaCppEngine.load(path, context_length=512, slots=max(STEPS), threads=threads)
    tokens_per_s(engine, 1, 5)  # the first steps touch the weights for the first time
    print(" ".join(f"{tokens_per_s(engine, n, steps):.1f}" for n, steps in STEPS.items()))
    engine.close()


def measure(path: Path, threads: int, spins: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if spins != "default":
        environment["GOMP_SPINCOUNT"] = spins
    command = [sys.executable, "-m", "benchmarks.spins", "--child", str(path)]
    return subprocess.run(
        [*command, "--threads", str(threads)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that never rest."""
    others = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spins", description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        child(chosen.child, chosen.threads)
        return
    path = cached()
    print(f"tokens/s at {' and '.join(map(str, STEPS))} sequences, {chosen.threads} threads")
    for name, processes in (("quiet", 0), ("busy", os.cpu_count() or 1)):
        with busy(processes):
            for spins in SPINS:
                print(f"{name:6} {spins:>8}  {measure(path, chosen.threads, spins)}", flush=True)


if __name__ == "__main__":
    main()
