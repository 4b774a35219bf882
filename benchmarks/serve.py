"""Our server on real weights, beside the bare loop and beside other servers.

Who is compared takes turns within a round, so that whatever else the machine does hits all.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from .bare import Bare, bare_loop
from .clients import Load, measure
from .prompts import Prompts
from .report import Row, ratio_row
from .servers import SLOTS, Server, llama_cpp_server, llama_server, ours_with_weights

STREAMS = {1: 6, 4: 3, 16: 2}
"""Concurrent streams -> requests that each makes in a round."""
SHARING_CALLERS = 16
SHARING_REQUESTS = 48
OURS, PEER, BINDING = "open-llm-server", "llama-server", "llama_cpp.server"
LAYOUTS = {"bare, one cache": True, "bare, a cache per stream": False}


@dataclass
class Found:
    """Measurements by (who, streams), in order of rounds. Times in seconds."""

    tokens_per_s: dict[tuple[str, int], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    first_s: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    worst_s: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, key: tuple[str, int], tokens_per_s: float, first_s: Sequence[float]) -> None:
        self.tokens_per_s[key].append(tokens_per_s)
        self.first_s[key].append(statistics.median(first_s))
        self.worst_s[key].append(max(first_s))


def run(path: Path, *, threads: int, rounds: int, peer: str | None) -> list[Row]:
    """`peer` is the path of a llama-server binary, if there is one."""
    with ExitStack() as stack:
        bare = {
            name: stack.enter_context(
                bare_loop(path, streams=SLOTS, threads=threads, unified=unified)
            )
            for name, unified in LAYOUTS.items()
        }
        servers = [stack.enter_context(ours_with_weights(path, threads))]
        if peer:
            servers.append(stack.enter_context(llama_server(peer, path, threads)))
        try:
            servers.append(stack.enter_context(llama_cpp_server(path, threads)))
        except (RuntimeError, OSError) as error:
            print(f"left out: {error}", file=sys.stderr)
        found, sharing = Found(), Found()
        _warm_up(bare, servers)
        for number in range(rounds):
            prompts = Prompts(seed=1000 + number)
            for streams in STREAMS:
                _streams(found, bare, servers, prompts, streams)
            for server in servers:
                if server.name != BINDING:
                    _sharing(sharing, server, prompts)
            print(f"round {number + 1} of {rounds} is done", file=sys.stderr)
    names = [server.name for server in servers]
    return [*_stream_rows(found, names), *_sharing_rows(sharing, names)]


def _warm_up(bare: dict[str, Bare], servers: Sequence[Server]) -> None:
    prompts = Prompts(seed=0)
    for loop in bare.values():
        loop.measure([prompts.prompts(2)])
    for server in servers:
        _checked(server, measure(server.port, server.model, prompts.prompts(2), 2))


def _streams(
    found: Found, bare: dict[str, Bare], servers: Sequence[Server], prompts: Prompts, streams: int
) -> None:
    each = STREAMS[streams]
    for name, loop in bare.items():
        done = loop.measure([prompts.prompts(streams) for _ in range(each)])
        found.add((name, streams), done["tokens"] / done["seconds"], done["first_s"])
    for server in servers:
        # llama_cpp.server answers one request after the other: it gets fewer of them.
        count = streams if server.name == BINDING else streams * each
        load = measure(server.port, server.model, prompts.prompts(count), streams)
        _checked(server, load)
        found.add((server.name, streams), load.tokens_per_s, load.first_s)


def _sharing(found: Found, server: Server, prompts: Prompts) -> None:
    texts = prompts.sharing(SHARING_REQUESTS)
    load = measure(server.port, server.model, texts, SHARING_CALLERS)
    _checked(server, load)
    found.add((server.name, SHARING_CALLERS), load.tokens_per_s, load.first_s)


def _checked(server: Server, load: Load) -> None:
    if load.faults:
        raise RuntimeError(f"{server.name} failed {len(load.faults)} requests: {load.faults[0]}")


def _stream_rows(found: Found, servers: Sequence[str]) -> list[Row]:
    rows = []
    for streams in STREAMS:
        ours = found.tokens_per_s[OURS, streams]
        label = f"{streams:2} streams: "
        # The faster layout is the limit, whichever our engine uses.
        bare = max(LAYOUTS, key=lambda name: statistics.median(found.tokens_per_s[name, streams]))
        for name in LAYOUTS:
            target = 0.95 if name == bare else None
            other = found.tokens_per_s[name, streams]
            rows.append(ratio_row(f"{label}tokens/s against {name}", ours, other, target))
        for name in servers:
            if name != OURS:
                other = found.tokens_per_s[name, streams]
                rows.append(ratio_row(f"{label}tokens/s against {name}", ours, other, 1.0))
        added = [
            1000 * (mine - yours)
            for mine, yours in zip(
                found.first_s[OURS, streams], found.first_s[bare, streams], strict=True
            )
        ]
        waits = ", ".join(
            f"{name} {1000 * statistics.median(found.first_s[name, streams]):.0f}"
            for name in (bare, *servers)
        )
        rows.append(
            Row(
                f"{label}median time to first token, added to {bare}",
                statistics.median(added), "ms", 15.0, False, f"ms: {waits}",
            )
        )  # fmt: skip
    return rows


def _sharing_rows(found: Found, servers: Sequence[str]) -> list[Row]:
    key = (OURS, SHARING_CALLERS)
    label = "16 callers, 490 shared tokens: "
    if PEER not in servers:
        return [
            Row(f"{label}tokens/s", statistics.median(found.tokens_per_s[key]), "tok/s"),
            Row(f"{label}worst time to first token", statistics.median(found.worst_s[key]), "s"),
        ]
    peer = (PEER, SHARING_CALLERS)
    return [
        ratio_row(
            f"{label}tokens/s against {PEER}",
            found.tokens_per_s[key], found.tokens_per_s[peer], 1.6,
        ),
        ratio_row(
            f"{label}worst time to first token against {PEER}",
            found.worst_s[key], found.worst_s[peer], 0.125, at_least=False, unit="s",
        ),
    ]  # fmt: skip
