"""Callers: concurrent HTTP requests over raw sockets, cheap enough to share the machine.

Speaks just enough HTTP/1.1 and server-sent events to time OpenAI-compatible servers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .prompts import NEW_TOKENS, SAMPLING, Prompt

HANG_S = 300.0


@dataclass
class Answer:
    """One request's times, in seconds from its start, and how it ended."""

    started_at: float
    first_s: float | None = None
    ended_at: float = 0.0
    pieces: int = 0
    longest_gap_s: float = 0.0
    fault: str | None = None


@dataclass
class Load:
    """What a group of callers met."""

    answers: list[Answer] = field(default_factory=list)
    tokens_each: int = NEW_TOKENS

    @property
    def faults(self) -> list[str]:
        return [answer.fault for answer in self.answers if answer.fault]

    @property
    def good(self) -> list[Answer]:
        return [answer for answer in self.answers if not answer.fault]

    @property
    def seconds(self) -> float:
        begin = min(answer.started_at for answer in self.answers)
        return max(answer.ended_at for answer in self.answers) - begin

    @property
    def tokens_per_s(self) -> float:
        return len(self.good) * self.tokens_each / self.seconds

    @property
    def first_s(self) -> list[float]:
        return sorted(answer.first_s for answer in self.good if answer.first_s is not None)


def completion(model: str, prompt: Prompt, *, new_tokens: int = NEW_TOKENS) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": prompt.text,
        "max_tokens": new_tokens,
        "seed": prompt.seed,
        "stream": True,
        **SAMPLING,
    }


def request_bytes(path: str, body: dict[str, Any], *, keep: bool = False) -> bytes:
    raw = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(raw)}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    )
    return head.encode() + raw


async def stream(port: int, body: dict[str, Any], *, most_s: float = HANG_S) -> Answer:
    """One streamed completion, from connecting to the stream's end."""
    answer = Answer(time.perf_counter())
    try:
        await asyncio.wait_for(_stream(port, body, answer), most_s)
    except (OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
        answer.fault = f"{type(error).__name__}: {error}"
    answer.ended_at = time.perf_counter()
    return answer


async def _stream(port: int, body: dict[str, Any], answer: Answer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        writer.write(request_bytes("/v1/completions", body))
        status = await reader.readline()
        if b" 200 " not in status:
            answer.fault = status.decode("latin-1").strip()
            return
        finish = last = None
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                continue
            now = time.perf_counter()
            event = json.loads(line[6:])
            for choice in event.get("choices", ()):
                finish = choice.get("finish_reason") or finish
                if choice.get("text"):
                    answer.pieces += 1
                    if answer.first_s is None:
                        answer.first_s = now - answer.started_at
                    elif last is not None:
                        answer.longest_gap_s = max(answer.longest_gap_s, now - last)
                    last = now
            if "error" in event:
                answer.fault = str(event["error"])
        if finish != "length" and not answer.fault:
            answer.fault = f"the stream ended with finish_reason {finish}"
    finally:
        writer.close()


async def _callers(port: int, model: str, prompts: Sequence[Prompt], callers: int) -> Load:
    load, waiting = Load(), list(reversed(prompts))

    async def caller() -> None:
        while waiting:
            load.answers.append(await stream(port, completion(model, waiting.pop())))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return load


def measure(port: int, model: str, prompts: Sequence[Prompt], callers: int) -> Load:
    """All `prompts`, `callers` at a time; who is done takes the next."""
    return asyncio.run(_callers(port, model, prompts, callers))


async def _short_requests(port: int, body: dict[str, Any], callers: int, seconds: float) -> float:
    raw, done = request_bytes("/v1/completions", body, keep=True), 0
    ends_at = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while time.perf_counter() < ends_at:
                writer.write(raw)
                head = await reader.readuntil(b"\r\n\r\n")
                if b" 200 " not in head.split(b"\r\n", 1)[0]:
                    raise RuntimeError(head.decode("latin-1"))
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                await reader.readexactly(length)
                done += 1
        finally:
            writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return done / (time.perf_counter() - started)


def short_requests(port: int, body: dict[str, Any], *, callers: int, seconds: float) -> float:
    """Whole (not streamed) answers a second, over connections that are kept."""
    return asyncio.run(_short_requests(port, body, callers, seconds))


async def _open_streams(port: int, body: dict[str, Any], count: int) -> Load:
    load = Load(tokens_each=body["max_tokens"])
    load.answers = list(await asyncio.gather(*(stream(port, body) for _ in range(count))))
    return load


def open_streams(port: int, body: dict[str, Any], count: int) -> Load:
    """`count` streams at once."""
    return asyncio.run(_open_streams(port, body, count))
