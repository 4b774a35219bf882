"""What gRPC costs beside HTTP, and what the client package adds to a call.

    python -m benchmarks doors [--rounds N]

The same completions, 16 at once, over both doors of one server in turn: with real weights, and with
the fake engine as fast as it goes, where there is nothing but the doors. Callers over HTTP are raw
sockets, callers over gRPC are grpc.aio without the client package.
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
from typing import Any

from .clients import HANG_S, Answer, Load, measure
from .prompts import NEW_TOKENS, SAMPLING, Prompt, Prompts
from .report import Row
from .servers import CONTEXT, MODEL, SLOTS, Server, free_port, ours

STREAMS = 16
EACH = 2
"""Completions that each stream makes, one after the other."""
CALLS = 300
CHAT = {"prompt": "How are you?", "max_tokens": 4}
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
    over_http: list[Load] = []
    over_grpc: list[Load] = []
    prompts = Prompts(seed=5).prompts(STREAMS * EACH)
    measure(server.port, server.model, prompts[:STREAMS], STREAMS)
    asyncio.run(_callers(port, server.model, prompts[:STREAMS]))
    for _ in range(rounds):
        over_http.append(measure(server.port, server.model, prompts, STREAMS))
        over_grpc.append(asyncio.run(_callers(port, server.model, prompts)))
    if faults := [fault for load in (*over_http, *over_grpc) for fault in load.faults]:
        raise RuntimeError(f"{len(faults)} streams failed: {faults[0]}")
    rates = [_median([load.tokens_per_s for load in way]) for way in (over_grpc, over_http)]
    first = [
        _median([statistics.median(load.first_s) for load in way]) for way in (over_grpc, over_http)
    ]
    return [
        Row(
            f"gRPC over HTTP, {STREAMS} streams, {what}: tokens/s",
            rates[0] / rates[1],
            target=1.0 if target else None,
            detail=f"{rates[0]:.0f} and {rates[1]:.0f}",
        ),
        Row(
            f"gRPC over HTTP, {STREAMS} streams, {what}: time to first token",
            first[0] / first[1],
            target=1.0 if target else None,
            at_least=False,
            detail=f"{first[0] * 1000:.0f} and {first[1] * 1000:.0f} ms",
        ),
    ]


async def _callers(port: int, model: str, prompts: Sequence[Prompt]) -> Load:
    """What `clients.measure` does, over gRPC: a connection for each completion, too."""
    load, waiting = Load(), list(reversed(prompts))

    async def caller() -> None:
        while waiting:
            load.answers.append(await _stream(port, model, waiting.pop()))

    await asyncio.gather(*(caller() for _ in range(STREAMS)))
    return load


async def _stream(port: int, model: str, prompt: Prompt) -> Answer:
    import grpc

    from open_llm_server.rpc import v1

    sampling = v1.Sampling(max_tokens=NEW_TOKENS, seed=prompt.seed, **SAMPLING)
    request = v1.CompleteRequest(model=model, prompt=prompt.text, sampling=sampling)
    answer = Answer(time.perf_counter())
    try:
        # One connection for all would share a window, and grpc would keep it between rounds.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            call = channel.unary_stream(
                "/open_llm.v1.OpenLLM/CompleteStream",
                request_serializer=v1.CompleteRequest.SerializeToString,
                response_deserializer=v1.CompleteStreamResponse.FromString,
            )
            async for event in call(request, timeout=HANG_S):
                if event.WhichOneof("event") == "delta":
                    answer.pieces += 1
                    answer.first_s = answer.first_s or time.perf_counter() - answer.started_at
                elif event.WhichOneof("event") == "end":
                    answer.ended_at = time.perf_counter()
    except grpc.RpcError as error:
        answer.fault = str(error)
    if not answer.ended_at:
        answer.fault = answer.fault or "the stream had no end"
        answer.ended_at = time.perf_counter()
    return answer


def _added(server: Server, rounds: int) -> Row:
    """`chat` of the client package beside the same bytes over a bare connection."""
    import open_llm_client

    url = f"http://127.0.0.1:{server.port}"
    bare, ours_s = [], []
    with open_llm_client.create(url) as client:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        body = json.dumps(CHAT).encode()

        def raw() -> Any:
            connection.request("POST", "/chat", body, {"Content-Type": "application/json"})
            return connection.getresponse().read()

        def chat() -> Any:
            return client.chat(CHAT["prompt"], max_tokens=CHAT["max_tokens"])

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
