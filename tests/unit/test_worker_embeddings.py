"""Embeddings in the worker thread, beside generation and beside each other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tickets import FOREVER, answer, read, running, text, ticket

from open_llm_server.engine.fake import FakeEngine
from open_llm_server.engine.ticket import Ticket, Vectors
from open_llm_server.errors import EngineError


async def test_embeddings_are_made_between_steps() -> None:
    engine = FakeEngine(slots=1, batch_tokens=8, reply_tokens=10_000)
    async with running(engine) as worker:
        talker = ticket("talk", **FOREVER)
        worker.submit(talker)
        inputs = [list(f"input {number}".encode()) for number in range(30)]
        embeds = Ticket(caller="", inputs=inputs)
        updates = await answer(worker, embeds)
        assert isinstance(updates[-1], Vectors)
        assert [list(vector) for vector in updates[-1].vectors] == engine.embed(inputs)
        assert talker.finished_at is None or talker.finished_at >= (embeds.started_at or 0)
        worker.cancel(talker)


class FussyEngine(FakeEngine):
    """Some inputs have no embedding."""

    def embed(
        self, inputs: Sequence[Sequence[int]], *, between: Callable[[], None] = lambda: None
    ) -> list[list[float]]:
        if list(b"bad") in [list(tokens) for tokens in inputs]:
            raise EngineError("the embedding is not a number")
        return super().embed(inputs, between=between)


async def test_an_embedding_that_fails_costs_its_request_only() -> None:
    async with running(FussyEngine(slots=1)) as worker:
        bad = Ticket(caller="", inputs=[list(b"bad")])
        good = [Ticket(caller="", inputs=[[1], [2]]) for _ in range(2)]
        for embeds in (good[0], bad, good[1]):  # they may be computed in one call
            worker.submit(embeds)
        with pytest.raises(EngineError, match="not a number"):
            await read(bad)
        for embeds in good:
            (*_, vectors) = await read(embeds)
            assert isinstance(vectors, Vectors) and len(vectors.vectors) == 2
        assert text(await answer(worker, ticket()))
        assert worker.admission.live == 0


class PatientEngine(FakeEngine):
    """Embeds nothing before it is told to."""

    def __init__(self, **kw: Any) -> None:
        super().__init__(**kw)
        self.told = threading.Event()

    def embed(
        self, inputs: Sequence[Sequence[int]], *, between: Callable[[], None] = lambda: None
    ) -> list[list[float]]:
        self.told.wait()
        return super().embed(inputs, between=between)


async def test_generation_goes_on_within_an_embedding() -> None:
    engine = PatientEngine(slots=1, batch_tokens=1000)
    async with running(engine) as worker:
        embeds = Ticket(caller="", inputs=[[number] for number in range(200)])
        talker = ticket(max_tokens=20)
        worker.submit(embeds)
        worker.submit(talker)
        engine.told.set()
        await asyncio.gather(read(embeds), read(talker))
        assert (talker.finished_at or 0) < (embeds.finished_at or 0)
