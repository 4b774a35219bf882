"""Our torch engine in a bare loop: what is lost against it is the server's.

`python -m benchmarks.torch_engine` measures it alone, at 1, 4 and 16 streams.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack

from open_llm_server.config.devices import SPINS
from open_llm_server.engine.base import Batch, Draw, Row

from .torch_bare import Loop, Place, bare
from .torch_models import FLAN_T5_BASE, PYTHIA_160M, Words, cached

MODEL_TYPES = ("t5", "gpt_neox")
STREAMS = (1, 4, 16)
ENVIRONMENT = {"GOMP_SPINCOUNT": SPINS}


def engine_loop(place: Place) -> Loop:
    """All prompts join in as few steps as hold them, then each step makes a token for everyone."""
    from open_llm_server.engine.torch_engine import TorchEngine

    gpu = place.device.startswith("cuda")
    engine = TorchEngine.load(
        place.path,
        model_types=MODEL_TYPES,
        context_length=place.context,
        slots=place.streams,
        threads=place.threads,
        device="gpu:0" if gpu else place.device,
        gpus=int(gpu),
        dtype=place.dtype,
    )
    limits = engine.limits

    def loop(prompts: Sequence[Sequence[int]], new: int) -> tuple[int, float | None]:
        began, first = time.perf_counter(), 0.0
        for slot in range(limits.slots):
            engine.forget(slot)
        if limits.whole_prompt:  # its end token is part of the suffix
            prompts = [[*prompt[:-1], *limits.prompt_suffix] for prompt in prompts]
        waiting = [Row(slot, prompt, 0, Draw(prompt=prompt)) for slot, prompt in enumerate(prompts)]
        last: list[Row] = []
        while waiting:
            rows = _fitting(waiting, limits.batch_tokens)
            del waiting[: len(rows)]
            last += [
                Row(row.slot, [outcome.token], row.start + len(row.tokens), row.draw)
                for row, outcome in zip(rows, engine.step(Batch(rows=rows)), strict=True)
                if outcome.token is not None
            ]
            first = first or time.perf_counter() - began
        made = len(last)
        for _ in range(new - 1):
            last = [
                Row(row.slot, [outcome.token], row.start + 1, row.draw)
                for row, outcome in zip(last, engine.step(Batch(rows=last)), strict=True)
                if outcome.token is not None
            ]
            made += len(last)
        return made, first

    return loop


def _fitting(rows: Sequence[Row], room: int) -> list[Row]:
    """As many of `rows` as one step may hold."""
    found: list[Row] = []
    for row in rows:
        room -= len(row.tokens)
        if room < 0:
            break
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torch_engine", description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument(
        "--crowded", action="store_true", help="compare with an engine beside an idle OpenMP team"
    )
    chosen = parser.parse_args()
    kinds = ("engine", "crowded") if chosen.crowded else ("engine",)
    for checkpoint in (FLAN_T5_BASE, PYTHIA_160M):
        place = Place(cached(checkpoint), chosen.threads, chosen.device, chosen.dtype)
        words = Words(checkpoint, seed=1)
        with ExitStack() as stack:
            loops = [stack.enter_context(bare(kind, place, ENVIRONMENT)) for kind in kinds]
            for loop in loops:
                loop.measure([words.prompt().tokens], 4)
            for streams in STREAMS:
                rates: dict[str, list[float]] = {kind: [] for kind in kinds}
                for _ in range(chosen.rounds):
                    prompts = [prompt.tokens for prompt in words.prompts(streams)]
                    for loop in loops:
                        rates[loop.kind].append(loop.measure(prompts).tokens_per_s)
                medians = {kind: statistics.median(found) for kind, found in rates.items()}
                print(
                    f"{checkpoint.label:<14} {chosen.dtype} {streams:2} streams: "
                    + ", ".join(f"{kind} {rate:.1f} tokens/s" for kind, rate in medians.items())
                    + f" ({medians[kinds[-1]] / medians['engine']:.2f})" * chosen.crowded
                )


if __name__ == "__main__":
    main()
