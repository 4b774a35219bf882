"""What an image costs beside the same server without a container.

    python -m benchmarks container [--rounds N]

Time to ready of `tiny`, and tokens/s of the 250M model at 1 and 16 streams, in turn: with this
machine's own build of llama.cpp, and with the image's, through `run-container`. OPEN_LLM_IMAGE is
the image; OPEN_LLM_FULL_IMAGE is one with both engines, whose size is told too.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from .clients import measure
from .prompts import Prompt, Prompts
from .report import Row, ratio_row
from .servers import CONTEXT, MODEL, SLOTS, Server, free_port, ours, started

IMAGE = os.environ.get("OPEN_LLM_IMAGE", "openllm-server/tiny:cpu-slim")
FULL_IMAGE = os.environ.get("OPEN_LLM_FULL_IMAGE", "openllm-server/tiny:cpu")
ENGINE = "podman"
STREAMS = (1, 16)
TURNS = 4
"""Of the rates in each round: they vary more than the times to ready."""
ADDED_S, LOST = 3.0, 0.97
SLIM_MB, FULL_MB = 350.0, 1200.0

Start = Callable[[str, Sequence[str]], AbstractContextManager[Server]]


def run(weights: Path, *, threads: int, rounds: int) -> list[Row]:
    """Ratios of measurements that were made right after each other."""
    ways: dict[str, Start] = {"bare": ours, "contained": contained}
    rows = [_size(IMAGE, SLIM_MB), _size(FULL_IMAGE, FULL_MB)]
    ready: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, start in ways.items():
            began = time.monotonic()
            with start("tiny", []):
                ready[name].append(time.monotonic() - began)
    added = [mine - bare for mine, bare in zip(ready["contained"], ready["bare"], strict=True)]
    rows.append(
        Row(
            "container: start to ready of tiny, beyond a start without one",
            statistics.median(added),
            "s",
            ADDED_S,
            at_least=False,
            detail=f"{statistics.median(ready['bare']):.1f} s without",
        )
    )
    return [*rows, *_rates(ways, f"{MODEL}=llama@{weights}", threads, rounds)]


def _rates(ways: dict[str, Start], model: str, threads: int, rounds: int) -> list[Row]:
    """Both servers stand there all the time, and are asked in turn: an idle one takes nothing."""
    options = ["--slots", str(SLOTS), "--context-length", str(CONTEXT), "--threads", str(threads)]
    rates: dict[tuple[str, int], list[float]] = {(w, n): [] for w in ways for n in STREAMS}
    prompts = Prompts(seed=7)
    with ExitStack() as stack:
        servers = {name: stack.enter_context(start(model, options)) for name, start in ways.items()}
        for server in servers.values():
            measure(server.port, server.model, prompts.prompts(4), 4)
        for turn in range(TURNS * rounds):
            for count in STREAMS:
                asked = prompts.prompts(max(count, 2))
                # Whoever comes second finds a warmer machine.
                for name in [*servers] if turn % 2 else [*reversed(servers)]:
                    rates[name, count].append(_rate(servers[name], asked, count))
    return [
        ratio_row(
            f"container over none, {count} streams: tokens/s",
            rates["contained", count],
            rates["bare", count],
            LOST,
        )
        for count in STREAMS
    ]


def _rate(server: Server, prompts: Sequence[Prompt], streams: int) -> float:
    load = measure(server.port, server.model, prompts, streams)
    if load.faults:
        raise RuntimeError(f"{len(load.faults)} streams failed: {load.faults[0]}")
    return load.tokens_per_s


@contextmanager
def contained(models: str, options: Sequence[str]) -> Iterator[Server]:
    """Our server in a container, through its command line."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "open_llm_server", "run-container", models),
        *("--target-device", "cpu", "--container-engine", ENGINE, "--image", IMAGE),
        *("--no-mount-store", "--port", str(port), *options),
    ]
    with started("run-container", command, port, "/readyz") as pid:
        yield Server("run-container", port, MODEL, pid)


def _size(image: str, limit_mb: float) -> Row:
    """As the engine counts it, unpacked; 1 MB is 10^6 bytes."""
    words = [ENGINE, "image", "inspect", "--format", "{{.Size}}", image]
    size = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return Row(f"size of {image}", size / 1e6, "MB", limit_mb, at_least=False)
