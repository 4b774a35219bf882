"""A worker with the fake engine, what it is given, and what is read from it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from hosting import SETTINGS

from open_llm_server.core import Sampling
from open_llm_server.engine.base import Batch, Outcome
from open_llm_server.engine.fake import FakeEngine
from open_llm_server.engine.ticket import Piece, Ticket, Update
from open_llm_server.engine.worker import Worker
from open_llm_server.generation import Prompt, tasks_for

FOREVER: dict[str, Any] = {"max_tokens": 4000}


class GatedEngine(FakeEngine):
    """Steps only when let through, so that a test knows what has happened so far."""

    def __init__(self, **kw: Any) -> None:
        super().__init__(**kw)
        self.gate = threading.Semaphore(0)
        self.open = False

    def step(self, batch: Batch) -> list[Outcome]:
        if not self.open:
            self.gate.acquire()
        return super().step(batch)

    def let_all(self) -> None:
        self.open = True
        self.gate.release()


@asynccontextmanager
async def running(engine: FakeEngine, **kw: Any) -> AsyncIterator[Worker]:
    worker = Worker(engine, **{"queue_size": 64, **kw})
    worker.start()
    try:
        yield worker
    finally:
        if isinstance(engine, GatedEngine):
            engine.let_all()
        await asyncio.to_thread(worker.stop)


def ticket(
    prompt: str = "hello", *, n: int = 1, caller: str = "", logprobs: int | None = None, **kw: Any
) -> Ticket:
    deadline = kw.pop("deadline", None)
    tasks = tasks_for(
        [Prompt(prompt, list(prompt.encode()))],
        settings=SETTINGS.override(Sampling(**kw)),
        stop=(),
        choices=n,
        logprobs=logprobs,
        score_prompt=False,
        context_length=4096,
        caller=caller,
        deadline=deadline,
    )
    return Ticket(caller=caller, tasks=tasks, deadline=deadline)


async def read(of: Ticket) -> list[Update]:
    return [update async for updates in of.updates(alive_every_s=60) for update in updates]


def text(updates: Sequence[Update], index: int = 0) -> str:
    return "".join(
        update.text for update in updates if isinstance(update, Piece) and update.index == index
    )


async def answer(worker: Worker, of: Ticket) -> list[Update]:
    worker.submit(of)
    return await read(of)


async def settled(condition: Callable[[], bool]) -> None:
    """Yields to the loop until `condition`; the caller's timeout is pytest's own."""
    while not condition():  # noqa: ASYNC110 - the worker's thread has no event to await
        await asyncio.sleep(0.001)
