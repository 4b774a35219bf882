"""Mixed load on a real server for a while: `make soak SECONDS=600`.

Good requests of all kinds, some that leave early, some that are wrong. Watches what a leak would
move: memory, descriptors and threads of every process, and slots that stay taken. Ends with 1
when an answer was not what it should be, or when something grew that should not.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from open_llm_server import start

CLIENTS = 12
SAMPLE_S = 5.0
GROWTH_LIMIT_KIB_PER_MIN = 512
"""After the warm-up, the median of the last third may exceed that of the first by this much a
minute and process; a lost request's worth of memory per second is far above."""
WARM_UP = 0.25
ROUTES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/chat", {"prompt": "Hello, how are you?", "max_tokens": 24}),
    ("/chat", {"prompt": "Tell me about this server.", "max_tokens": 48, "stream": True}),
    ("/complete", {"prompt": "Once upon a time", "n": 3, "max_tokens": 16}),
    ("/embed", {"input": ["Hello, how are you?", "soup is my favorite food"]}),
    ("/v1/completions", {"prompt": ["One", "Two"], "max_tokens": 8, "logprobs": 2, "echo": True}),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "Who are you?"}], "stream": True},
    ),
)
WRONG: tuple[tuple[str, bytes], ...] = (
    ("/chat", b'{"prompt": 7}'),
    ("/chat", b'{"prompt": "x", "temperature": 1e999}'),
    ("/v1/chat/completions", b'{"messages": []}'),
    ("/v1/completions", b"\xff\xfe"),
    ("/embed", b'{"input": []}'),
    ("/complete", b'{"prompt": "' + b"A" * 200_000 + b'"}'),
)


@dataclass
class Sample:
    """One process at one moment."""

    rss_kib: int
    descriptors: int
    threads: int


@dataclass
class Soak:
    url: str
    supervisor: psutil.Process
    answers: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    samples: dict[int, list[Sample]] = field(default_factory=dict)

    async def run(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=self.url, timeout=120, limits=limits) as client:
            clients = (self.client(client, number, ends_at) for number in range(CLIENTS))
            await asyncio.gather(self.watch(ends_at), *clients)
            ready = await client.get("/v1/models")
            self.check(ready.status_code == 200, f"/v1/models after the load: {ready.status_code}")
            await self.nothing_left(client)

    async def client(self, client: httpx.AsyncClient, number: int, ends_at: float) -> None:
        dice = random.Random(number)
        while time.monotonic() < ends_at:
            chance = dice.random()
            if chance < 0.01:
                await self.wrong(client, *dice.choice(WRONG))
            else:
                await self.good(client, *dice.choice(ROUTES), leave=chance < 0.02)

    async def good(
        self, client: httpx.AsyncClient, path: str, body: dict[str, Any], *, leave: bool
    ) -> None:
        model = random.choice(("tiny", "fake"))
        async with client.stream("POST", path, json={**body, "model": model}) as response:
            if leave:
                self.answers["left early"] += 1
                return
            text = (await response.aread()).decode()
        self.answers[f"{response.status_code}"] += 1
        self.check(response.status_code == 200, f"{path}: {response.status_code} {text[:200]}")
        self.check('"error":' not in text, f"{path}: {text[:200]}")

    async def wrong(self, client: httpx.AsyncClient, path: str, body: bytes) -> None:
        headers = {"content-type": "application/json"}
        response = await client.post(path, content=body, headers=headers)
        self.answers[f"{response.status_code} (meant)"] += 1
        self.check(400 <= response.status_code < 500, f"{path}: {response.status_code}")

    async def nothing_left(self, client: httpx.AsyncClient) -> None:
        """Cancelled requests leave within a step, so their slots are free by now or never."""
        for _ in range(50):
            metrics = (await client.get("/metrics")).text
            busy = [
                line
                for line in metrics.splitlines()
                if ("running" in line or "waiting" in line)
                and not line.startswith("#")
                and not line.endswith(" 0.0")
            ]
            if not busy:
                return
            await asyncio.sleep(0.2)
        self.check(False, f"slots stay taken: {busy}")

    async def watch(self, ends_at: float) -> None:
        began = time.monotonic()
        while time.monotonic() < ends_at:
            for process in [self.supervisor, *self.supervisor.children(recursive=True)]:
                with process.oneshot():
                    sample = Sample(
                        process.memory_info().rss // 1024, process.num_fds(), process.num_threads()
                    )
                self.samples.setdefault(process.pid, []).append(sample)
            print(f"{time.monotonic() - began:5.0f} s  {dict(self.answers)}", flush=True)
            await asyncio.sleep(min(SAMPLE_S, max(0.0, ends_at - time.monotonic())))

    def check(self, fine: bool, words: str) -> None:
        if not fine:
            self.faults.append(words)

    def report(self, seconds: float) -> bool:
        """Prints what moved; false if anything was wrong."""
        print(f"\n{'process':40} {'KiB/min':>9} {'fds':>9} {'threads':>9}")
        for pid, samples in self.samples.items():
            settled = samples[int(len(samples) * WARM_UP) :]
            third = max(1, len(settled) // 3)
            first, last = settled[:third], settled[-third:]
            minutes = max(seconds * (1 - WARM_UP) * 2 / 3 / 60, 1e-9)
            growth = (middle(last, "rss_kib") - middle(first, "rss_kib")) / minutes
            name = name_of(pid)
            print(
                f"{name:40} {growth:9.0f} {settled[0].descriptors:4}->{settled[-1].descriptors:<4}"
                f" {settled[0].threads:4}->{settled[-1].threads:<4}"
            )
            self.check(growth < GROWTH_LIMIT_KIB_PER_MIN, f"{name} grows by {growth:.0f} KiB/min")
        for fault, count in Counter(self.faults).most_common(20):
            print(f"FAULT x{count}: {fault}")
        return not self.faults


def middle(samples: list[Sample], name: str) -> int:
    values = sorted(getattr(sample, name) for sample in samples)
    return int(values[len(values) // 2])


def name_of(pid: int) -> str:
    try:
        words = psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return f"{pid} (gone)"
    if "--runner-name" in words:
        return f"{pid} runner {words[words.index('--runner-name') + 1]}"
    return f"{pid} {' '.join(word for word in words[1:4] if '/' not in word)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    seconds = parser.parse_args().seconds
    with start("tiny,fake", port=0, queue_size=256) as server:
        soak = Soak(server.url, psutil.Process(server.pid))
        asyncio.run(soak.run(seconds))
        fine = soak.report(seconds)
    print("fine" if fine else "not fine")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
