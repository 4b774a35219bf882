"""What gRPC costs beside HTTP, and what the client package adds to a call.

    python -m benchmarks doors [--rounds N]

The same completions, 16 at once, over both doors of one server in turn, by the client package: with
real weights, and with the fake engine as fast as it goes, where there is nothing but the doors.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .clients import HANG_S, Answer, Load
from .prompts import NEW_TOKENS, SAMPLING, Prompt, Prompts
from .report import Row
from .servers import CONTEXT, MODEL, SLOTS, Server, free_port, ours

if TYPE_CHECKING:
    import open_llm_client

STREAMS = 16
EACH = 2
"""Completions that each stream makes, one after the other."""
CALLS = 300
_SAMPLING: Any = SAMPLING
QUESTION, FEW = "How are you?", 4
IMPORT_S, ADDED_MS = 0.25, 1.0


def run(weights: Path, *, threads: int, rounds: int) -> list[Row]:
    """Ratios of medians over `rounds`."""
    port = free_port()
    common = ["--grpc-port", str(port), "--slots", str(SLOTS), "--queue-size", "256"]
    real = [*common, "--context-length", str(CONTEXT), "--threads", str(threads)]
    with ours(f"{MODEL}=llama@{weights}", real) as server:
        rows = _streams(server, port, rounds, "250M Q8_0", target=True)
    with ours(f"{MODEL}=fake", [*common, "--set", f"{MODEL}.reply_tokens={NEW_TOKENS}"]) as server:
        rows += _streams(server, port, rounds, "fake engine", target=False)
        rows += [_added(server, rounds)]
    return [*rows, _import_time(rounds)]


def _streams(server: Server, port: int, rounds: int, what: str, *, target: bool) -> list[Row]:
    doors = {"grpc": f"grpc://127.0.0.1:{port}", "http": f"http://127.0.0.1:{server.port}"}
    loads: dict[str, list[Load]] = {name: [] for name in doors}
    prompts = Prompts(seed=5).prompts(STREAMS * EACH)
    for url in doors.values():
        asyncio.run(_callers(url, server.model, prompts[:STREAMS]))
    for _ in range(rounds):
        for name, url in doors.items():
            loads[name].append(asyncio.run(_callers(url, server.model, prompts)))
    if faults := [fault for way in loads.values() for load in way for fault in load.faults]:
        raise RuntimeError(f"{len(faults)} streams failed: {faults[0]}")
    rates = {name: _median([load.tokens_per_s for load in way]) for name, way in loads.items()}
    first = {
        name: _median([_median(load.first_s) for load in way]) * 1000 for name, way in loads.items()
    }
    return [
        Row(
            f"gRPC over HTTP, {STREAMS} streams, {what}: tokens/s",
            rates["grpc"] / rates["http"],
            target=1.0 if target else None,
            detail=f"{rates['grpc']:.0f} and {rates['http']:.0f}",
        ),
        Row(
            f"gRPC over HTTP, {STREAMS} streams, {what}: time to first token",
            first["grpc"] / first["http"],
            target=1.0 if target else None,
            at_least=False,
            detail=f"{first['grpc']:.0f} and {first['http']:.0f} ms",
        ),
    ]


async def _callers(url: str, model: str, prompts: Sequence[Prompt]) -> Load:
    """All `prompts`, 16 at a time; who is done takes the next."""
    import open_llm_client

    load, waiting = Load(), list(reversed(prompts))

    async with open_llm_client.create(url, model=model, timeout=HANG_S) as client:

        async def caller() -> None:
            while waiting:
                load.answers.append(await _stream(client, waiting.pop()))

        await asyncio.gather(*(caller() for _ in range(STREAMS)))
    return load


async def _stream(client: open_llm_client.Client, prompt: Prompt) -> Answer:
    answer = Answer(time.perf_counter())
    async with await client.async_complete(
        prompt.text, max_tokens=NEW_TOKENS, seed=prompt.seed, stream=True, **_SAMPLING
    ) as stream:
        async for _ in stream:
            answer.pieces += 1
            answer.first_s = answer.first_s or time.perf_counter() - answer.started_at
    answer.ended_at = time.perf_counter()
    if stream.answer.finish_reasons != ["length"]:
        answer.fault = f"it ended with {stream.answer.finish_reasons}"
    return answer


def _added(server: Server, rounds: int) -> Row:
    """`chat` of the client package beside the same bytes over a bare connection."""
    import open_llm_client

    url = f"http://127.0.0.1:{server.port}"
    bare, ours_s = [], []
    with open_llm_client.create(url) as client:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        body = json.dumps({"prompt": QUESTION, "max_tokens": FEW}).encode()

        def raw() -> Any:
            connection.request("POST", "/chat", body, {"Content-Type": "application/json"})
            return connection.getresponse().read()

        def chat() -> Any:
            return client.chat(QUESTION, max_tokens=FEW)

        for _ in range(rounds):
            bare.append(_each_s(raw))
            ours_s.append(_each_s(chat))
        connection.close()
    added = [(mine - theirs) * 1000 for mine, theirs in zip(ours_s, bare, strict=True)]
    return Row(
        "client: chat beyond a bare connection",
        _median(added),
        "ms",
        ADDED_MS,
        at_least=False,
        detail=f"medians of {CALLS} calls; bare {_median(bare) * 1000:.2f} ms",
    )


def _each_s(call: Callable[[], Any]) -> float:
    """Median seconds of one call."""
    times = []
    for _ in range(CALLS):
        began_at = time.perf_counter()
        call()
        times.append(time.perf_counter() - began_at)
    return _median(times)


def _import_time(rounds: int) -> Row:
    code = (
        "import time; begun_at = time.perf_counter(); import open_llm_client; "
        "print(time.perf_counter() - begun_at)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], check=True, stdout=-1, text=True).stdout)
        for _ in range(rounds + 2)
    ]
    return Row("client: import", _median(times), "s", IMPORT_S, at_least=False)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)
