"""The worker thread with the fake engine: real thread, real event loop, no sleeps."""

from __future__ import annotations

import asyncio
import threading

import pytest
from tickets import FOREVER, GatedEngine, answer, read, running, settled, text, ticket

from open_llm_server.engine.base import Batch, Outcome
from open_llm_server.engine.fake import FakeEngine
from open_llm_server.engine.ticket import Piece, Waiting
from open_llm_server.engine.worker import Worker
from open_llm_server.errors import InvalidField, QueueFull


async def test_many_at_once_get_what_each_gets_alone() -> None:
    prompts = [f"prompt number {number} " * (number + 1) for number in range(20)]
    async with running(FakeEngine(slots=1)) as worker:
        alone = [text(await answer(worker, ticket(prompt))) for prompt in prompts]
    async with running(FakeEngine(slots=4)) as worker:
        together = await asyncio.gather(*(answer(worker, ticket(prompt)) for prompt in prompts))
    assert [text(updates) for updates in together] == alone
    assert len(set(alone)) > 5


async def test_what_arrives_together_starts_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_llm_server.engine.worker.GATHER_S", 60.0)
    gathering, gather = threading.Event(), Worker._gather

    def watched(worker: Worker) -> None:
        gathering.set()
        gather(worker)

    monkeypatch.setattr(Worker, "_gather", watched)
    first: list[int] = []

    class Watched(FakeEngine):
        def step(self, batch: Batch) -> list[Outcome]:
            first.append(len(batch.rows))
            return super().step(batch)

    async with running(Watched()) as worker:
        one, two = ticket("one"), ticket("two")
        worker.coming = 1  # the second is still being prepared
        worker.submit(one)
        await settled(gathering.is_set)
        with worker._lock:  # free only while the worker waits
            worker.coming = 0
        worker.submit(two)
        await asyncio.gather(read(one), read(two))
    assert first[0] == 2


async def test_a_running_step_has_an_age() -> None:
    engine = GatedEngine()
    async with running(engine) as worker:
        assert worker.step_age_s is None
        worker.submit(ticket())
        await settled(lambda: worker.step_age_s is not None)
        engine.let_all()
        await settled(lambda: worker.num_running == 0)
        assert worker.step_age_s is None


async def test_a_stop_text_across_tokens_ends_the_answer() -> None:
    async with running(FakeEngine(slots=2, reply_tokens=100)) as worker:
        whole = text(await answer(worker, ticket(max_tokens=10)))
        words = whole.split()
        stop = f"{words[3][-2:]} {words[4][:2]}"
        of = ticket(max_tokens=10, stop_sequence=(stop,))
        updates = await answer(worker, of)
    assert text(updates) == whole[: whole.index(stop)]
    last = updates[-1]
    assert isinstance(last, Piece) and last.reason == "stop"
    assert len(of.tasks[0].job.output) == 5, "not one token more than needed"


async def test_scores_travel_with_their_text() -> None:
    async with running(FakeEngine(slots=2)) as worker:
        updates = await answer(worker, ticket(logprobs=2, max_tokens=4))
    scores = [score for update in updates if isinstance(update, Piece) for score in update.scores]
    assert b"".join(score.raw for score in scores).decode() == text(updates)
    assert all(len(score.top) == 2 for score in scores)


async def test_choices_of_one_request() -> None:
    async with running(FakeEngine(slots=2)) as worker:
        of = ticket(n=5)
        updates = await answer(worker, of)
    assert {text(updates, index) for index in range(5)} == {text(updates)}
    reasons = [update for update in updates if isinstance(update, Piece) and update.reason]
    assert sorted(piece.index for piece in reasons) == [0, 1, 2, 3, 4]


async def test_a_cancelled_ticket_frees_its_slot_within_one_step() -> None:
    engine = GatedEngine(slots=1, reply_tokens=10_000)
    async with running(engine) as worker:
        first, second = ticket("first", **FOREVER), ticket("second")
        worker.submit(first)
        worker.submit(second)
        engine.gate.release()
        await settled(lambda: first.prompted_at is not None)
        worker.cancel(first)
        engine.let_all()
        assert text(await read(second))
        assert len(first.tasks[0].job.output) <= 2
        assert worker.admission.live == 0


async def test_a_full_queue_refuses_with_a_waiting_time_and_takes_more_later() -> None:
    engine = GatedEngine(slots=1)
    async with running(engine, queue_size=2) as worker:
        tickets = [ticket(str(number)) for number in range(3)]
        for of in tickets:
            worker.submit(of)
        with pytest.raises(QueueFull) as refused:
            worker.submit(ticket("one too many"))
        assert refused.value.retry_after is not None and refused.value.retry_after >= 1
        engine.let_all()
        await asyncio.gather(*map(read, tickets))
        assert text(await answer(worker, ticket("now there is room")))
        assert worker.admission.refused == 1


async def test_a_request_that_can_never_fit_is_told_so() -> None:
    async with running(FakeEngine(slots=1), queue_size=2) as worker:
        with pytest.raises(InvalidField, match="ask for fewer"):
            worker.submit(ticket(n=4))


async def test_waiting_tickets_hear_their_place() -> None:
    engine = GatedEngine(slots=1)
    async with running(engine) as worker:
        tickets = [ticket(str(number)) for number in range(3)]
        for of in tickets:
            worker.submit(of)
        engine.let_all()
        heard = await asyncio.gather(*map(read, tickets))
    places = [
        [update.position for update in updates if isinstance(update, Waiting)] for updates in heard
    ]
    assert places[0] == []
    assert places[1][0] == 1
    assert places[2][0] == 2


async def test_a_silent_ticket_yields_empty_updates() -> None:
    engine = GatedEngine(slots=1)
    async with running(engine) as worker:
        of = ticket()
        worker.submit(of)
        async for updates in of.updates(alive_every_s=0.01):
            assert updates == []
            break
