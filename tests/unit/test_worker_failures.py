"""What requests hear when their worker runs out of time, breaks or stops."""

from __future__ import annotations

import asyncio

import pytest
from tickets import FOREVER, GatedEngine, answer, read, running, settled, text, ticket

from open_llm_server.engine.base import Batch, Outcome, RowError
from open_llm_server.engine.fake import FakeEngine, Faults
from open_llm_server.engine.ticket import Ticket
from open_llm_server.errors import DeadlineExceeded, Draining, EngineError


async def test_a_deadline_ends_waiting_and_running() -> None:
    now = 0.0
    engine = GatedEngine(slots=1, reply_tokens=10_000)
    async with running(engine, clock=lambda: now) as worker:
        busy = ticket("busy", deadline=10.0, **FOREVER)
        queued = ticket("queued", deadline=5.0)
        worker.submit(busy)
        worker.submit(queued)
        engine.gate.release()
        await settled(lambda: busy.prompted_at is not None)
        now = 20.0
        engine.let_all()
        for of in (busy, queued):
            with pytest.raises(DeadlineExceeded):
                await read(of)
        assert worker.admission.live == 0


async def test_a_deadline_of_a_ticket_with_many_sequences_is_one_error() -> None:
    now = 0.0
    engine = GatedEngine(slots=2, reply_tokens=10_000)
    async with running(engine, clock=lambda: now) as worker:
        late, fine = ticket(n=2, deadline=1.0, **FOREVER), ticket("fine")
        worker.submit(late)
        worker.submit(fine)
        now = 2.0
        engine.let_all()
        with pytest.raises(DeadlineExceeded):
            await read(late)
        assert text(await read(fine))
        assert worker.crash is None


async def test_a_broken_engine_tells_everybody_and_takes_no_more() -> None:
    crashes: list[BaseException] = []
    engine = GatedEngine(slots=2, reply_tokens=10_000, faults=Faults(fail_on="poison"))
    async with running(engine, on_crash=crashes.append) as worker:
        tickets = [ticket(f"fine {number}", **FOREVER) for number in range(3)]
        for of in tickets:
            worker.submit(of)
        tickets.append(ticket("poison"))
        worker.submit(tickets[-1])
        worker.cancel(tickets[0])
        worker.cancel(tickets[1])
        engine.let_all()
        for of in tickets[2:]:
            with pytest.raises(EngineError):
                await read(of)
        with pytest.raises(EngineError):
            worker.submit(ticket())
    assert len(crashes) == 1


async def test_giving_up_fails_everybody_while_the_engine_hangs() -> None:
    engine = GatedEngine(slots=2)
    async with running(engine, running=1) as worker:
        live = [ticket("one"), ticket("two"), Ticket(caller="", inputs=[[1, 2]])]
        for one in live:
            worker.submit(one)
        await settled(lambda: worker.step_age_s is not None)
        worker.submit(late := ticket("four"))
        worker.give_up(EngineError("hung"))
        for one in (*live, late):
            with pytest.raises(EngineError, match="hung"):
                await asyncio.wait_for(read(one), 30)
        with pytest.raises(EngineError):
            worker.submit(ticket("five"))
        engine.let_all()


class NanEngine(FakeEngine):
    """One prompt gives logits that are not numbers."""

    def step(self, batch: Batch) -> list[Outcome]:
        outcomes = super().step(batch)
        for row in batch.rows:
            if row.draw and bytes(row.draw.prompt).startswith(b"nan"):
                raise RowError(row.slot, "logits are not numbers")
        return outcomes


async def test_a_row_that_cannot_be_computed_costs_one_request() -> None:
    async with running(FakeEngine(slots=3)) as worker:
        expected = text(await answer(worker, ticket("good one")))
    async with running(NanEngine(slots=3)) as worker:
        good, bad = ticket("good one"), ticket("nan")
        worker.submit(good)
        worker.submit(bad)
        with pytest.raises(EngineError, match="not numbers"):
            await read(bad)
        assert text(await read(good)) == expected


async def test_a_worker_that_is_stopped_lets_everybody_go() -> None:
    slow = Faults(step_s=0.05)
    async with running(FakeEngine(slots=1, reply_tokens=10_000, faults=slow)) as worker:
        tickets = [ticket(str(number), **FOREVER) for number in range(3)]
        for of in tickets:
            worker.submit(of)
    for of in tickets:
        with pytest.raises(Draining):
            await read(of)
    with pytest.raises(Draining):
        worker.submit(ticket())
