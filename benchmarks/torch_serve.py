"""Our server on torch's models, beside transformers and CTranslate2, on random weights.

Who is compared takes turns within a round. Every answer is greedy and has as many tokens as all
others; nobody meets an end token.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from open_llm_server.config.devices import SPINS

from .report import Row, ratio_row
from .servers import SLOTS, Server
from .torch_bare import NEW_TOKENS, Bare, Place, bare
from .torch_load import arriving, closed, equal_lengths, mixed_lengths
from .torch_models import FLAN_T5_BASE, PYTHIA_160M, Checkpoint, Words, cached, weight_bytes
from .torch_peers import CONTEXT, ours, packages, runner_bytes, transformers_serve

STREAMS = {1: 4, 4: 2, 16: 2}
"""Concurrent streams -> requests that each makes in a round."""
ARRIVALS = 48
OURS, INT8 = "open-llm-server bfloat16", "open-llm-server int8"
MODES = ("transformers serve", "transformers serve, batching")
MIXED, EQUAL = "mixed", "equal"
MEBI = 2**20

Key = tuple[str, int]


@dataclass
class Found:
    """Measurements by (who, streams), in order of rounds; first-token times in seconds."""

    rates: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    first_s: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    resident: dict[str, int] = field(default_factory=dict)

    def add(self, key: Key, rate: float, first_s: Sequence[float | None]) -> None:
        self.rates[key].append(rate)
        known = [wait for wait in first_s if wait is not None]
        if known:
            self.first_s[key].append(statistics.median(known))


@dataclass
class Compared:
    """Everybody who is measured on one checkpoint."""

    checkpoint: Checkpoint
    servers: list[Server]
    loops: list[Bare]


def run(*, threads: int, rounds: int) -> list[Row]:
    """Every row of the table, for both checkpoints."""
    rows = []
    for checkpoint in (FLAN_T5_BASE, PYTHIA_160M):
        with ExitStack() as stack:
            compared = _start(stack, checkpoint, threads)
            found = Found()
            _warm_up(compared)
            for number in range(rounds):
                _round(found, compared, Words(checkpoint, seed=1000 + number), number)
                print(f"{checkpoint.label}: round {number + 1} of {rounds}", file=sys.stderr)
            for server in compared.servers:
                if server.name in (OURS, INT8):
                    found.resident[server.name] = runner_bytes(server)
        rows += _rows(checkpoint, found)
    return rows


def _start(stack: ExitStack, checkpoint: Checkpoint, threads: int) -> Compared:
    path = cached(checkpoint)
    place = Place(path, threads, streams=SLOTS, context=CONTEXT)
    alone = {"OMP_NUM_THREADS": str(threads)}
    servers = [stack.enter_context(ours(checkpoint, path, threads))]
    loops = [
        stack.enter_context(bare("generate", place, alone)),
        stack.enter_context(bare("engine", place, {**alone, "GOMP_SPINCOUNT": SPINS})),
    ]
    if checkpoint.encodes:
        servers.append(stack.enter_context(ours(checkpoint, path, threads, "int8")))
        beside = {**alone, "PYTHONPATH": str(packages())}
        loops.append(stack.enter_context(bare("ctranslate2", place, beside)))
    else:
        servers += [
            stack.enter_context(transformers_serve(path, threads, batching=batching))
            for batching in (False, True)
        ]
    return Compared(checkpoint, servers, loops)


def _warm_up(compared: Compared) -> None:
    words = Words(compared.checkpoint, seed=0)
    for streams in (1, SLOTS):
        prompts = words.prompts(streams)
        for loop in compared.loops:
            loop.measure([prompt.tokens for prompt in prompts], 8)
        for server in compared.servers:
            closed(server, prompts, streams, 8)


def _round(found: Found, compared: Compared, words: Words, number: int) -> None:
    for streams, each in STREAMS.items():
        for loop in compared.loops:
            batches = [words.prompts(streams) for _ in range(each)]
            done = [loop.measure([prompt.tokens for prompt in batch]) for batch in batches]
            rate = sum(one.tokens for one in done) / sum(one.seconds for one in done)
            found.add((loop.kind, streams), rate, [one.first_s for one in done])
        for server in compared.servers:
            # One that answers one request after the other gets fewer of them.
            count = streams if server.name == MODES[0] else streams * each
            load = closed(server, words.prompts(count), streams, NEW_TOKENS)
            found.add((server.name, streams), load.tokens_per_s, load.first_s)
    (server,) = (server for server in compared.servers if server.name == OURS)
    capacity = statistics.median(found.rates[OURS, SLOTS])
    lengths = {MIXED: mixed_lengths(ARRIVALS, seed=number), EQUAL: equal_lengths(ARRIVALS)}
    for name, wanted in lengths.items():
        prompts = words.prompts(ARRIVALS)
        found.add((name, SLOTS), arriving(server, prompts, wanted, rate=capacity, seed=number), [])


Comparison = tuple[str, Key, Key, float | None]
"""What is compared, ours, theirs, and the target for their ratio."""


def _rows(checkpoint: Checkpoint, found: Found) -> list[Row]:
    peers = _encoder_peers() if checkpoint.encodes else _decoder_peers(found)
    rows = [
        ratio_row(f"{checkpoint.label}, {what}", found.rates[mine], found.rates[other], target)
        for what, mine, other, target in (*_against_loops(), *peers)
    ]
    return [*rows, *_first_token_rows(checkpoint, found), *_memory_rows(checkpoint, found)]


def _against_loops() -> Iterator[Comparison]:
    alone, batch = ("generate", 1), ("generate", 16)
    yield "1 stream: over generate", (OURS, 1), alone, 1.2
    yield "4 streams: over generate, one at a time", (OURS, 4), alone, None
    yield "16 streams: over generate, one at a time", (OURS, 16), alone, 6.0
    yield "16 streams: over generate on a batch of 16", (OURS, 16), batch, 0.9
    for streams in STREAMS:
        bare_engine = ("engine", streams)
        yield f"{streams} streams: over our engine, no server", (OURS, streams), bare_engine, None
    yield "random arrivals: mixed lengths over equal ones", (MIXED, 16), (EQUAL, 16), 0.8


def _encoder_peers() -> Iterator[Comparison]:
    for streams in (1, 16):
        theirs = ("ctranslate2", streams)
        yield f"{streams} streams, int8: over CTranslate2 int8", (INT8, streams), theirs, 1.0
        yield f"{streams} streams: over CTranslate2 int8", (OURS, streams), theirs, None


def _decoder_peers(found: Found) -> Iterator[Comparison]:
    """The target is for the better of the peer's two modes."""
    for streams in STREAMS:
        medians = {mode: statistics.median(found.rates[mode, streams]) for mode in MODES}
        for mode, rate in medians.items():
            target = 1.2 if rate == max(medians.values()) else None
            yield f"{streams} streams: over {mode}", (OURS, streams), (mode, streams), target


def _first_token_rows(checkpoint: Checkpoint, found: Found) -> list[Row]:
    rows = []
    for streams in STREAMS:
        waits = {
            who: 1000 * statistics.median(times)
            for (who, count), times in found.first_s.items()
            if count == streams and times
        }
        detail = ", ".join(f"{who} {ms:.0f}" for who, ms in waits.items() if who != OURS)
        what = f"{checkpoint.label}, {streams} streams: median time to first token"
        rows.append(Row(what, waits[OURS], "ms", detail=f"ms: {detail}"))
    return rows


def _memory_rows(checkpoint: Checkpoint, found: Found) -> list[Row]:
    weights = weight_bytes(cached(checkpoint))
    cache = checkpoint.cache_bytes(CONTEXT, SLOTS)
    return [
        Row(
            f"{checkpoint.label}, {who}: memory beyond weights and cache",
            (resident - weights - cache) / MEBI, "MiB", 400.0, False,
            f"{resident / MEBI:.0f} - {weights / MEBI:.0f} - {cache / MEBI:.0f} MiB",
        )
        for who, resident in found.resident.items()
    ]  # fmt: skip
