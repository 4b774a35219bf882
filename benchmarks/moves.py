"""What it costs when slots that work together are no neighbours: `python -m benchmarks.moves`.

Two sequences decode side by side, far apart, and far apart with the engine's own remedy, which
moves one of them first. docs/adr/0010 was decided by this.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence

from open_llm_server.engine.base import Batch, Draw, Row
from open_llm_server.engine.llama_cpp import LlamaCppEngine

from .models import cached

SLOTS, HELD, STEPS = 16, 512, 15
NEAR, FAR = (0, 1), (0, 9)


def steps_s(engine: LlamaCppEngine, slots: Sequence[int], start: int) -> list[float]:
    """Seconds of each of STEPS steps of one token for each of `slots`."""
    draws, took = [Draw(prompt=[1]) for _ in slots], []
    for step in range(STEPS):
        rows = [Row(slot, [300], start + step, draws[n]) for n, slot in enumerate(slots)]
        began = time.perf_counter()
        engine.step(Batch(rows=rows))
        took.append(time.perf_counter() - began)
    for slot in slots:
        engine.step(Batch(trims=[(slot, start)]))
    return took


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.moves", description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args(arguments)
    engine = LlamaCppEngine.load(cached(), context_length=1024, slots=SLOTS, threads=chosen.threads)
    for slot in range(SLOTS):
        engine.step(Batch(rows=[Row(slot, [300] * HELD, 0)]))
    gather = engine._sequences.gather
    near = steps_s(engine, NEAR, HELD)
    engine._sequences.gather = lambda slots: None  # type: ignore[method-assign]  # without it
    far = steps_s(engine, FAR, HELD)
    engine._sequences.gather = gather  # type: ignore[method-assign]  # with it again
    first, *moved = steps_s(engine, FAR, HELD)
    base = statistics.median(near)
    print(f"two sequences of {HELD} tokens, one step against that of neighbours:")
    print(f"far apart             {statistics.median(far) / base:5.2f} x")
    print(f"far apart, moved      {statistics.median(moved) / base:5.2f} x")
    print(f"the step that moves   {first / base:5.2f} x")
    engine.close()


if __name__ == "__main__":
    main()
