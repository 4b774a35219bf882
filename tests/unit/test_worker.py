"""The worker thread with the fake engine: real thread, real event loop, no sleeps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from open_llm_server.core import Sampling
from open_llm_server.engine.base import Batch, Draw, Outcome, RowError, Score
from open_llm_server.engine.fake import END, FIRST_WORD, FakeEngine, Faults
from open_llm_server.engine.job import Generated, Job
from open_llm_server.engine.text import TextAssembler
from open_llm_server.engine.ticket import Piece, Task, Ticket, Update, Vectors, Waiting, spelled
from open_llm_server.engine.worker import Worker
from open_llm_server.errors import DeadlineExceeded, Draining, EngineError, InvalidField, QueueFull
from open_llm_server.generation import Prompt, Settings, tasks_for

DEFAULTS = Settings(
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    max_tokens=8,
    stop_sequence=(),
    frequency_penalty=0.0,
    presence_penalty=0.0,
    repetition_penalty=1.0,
    seed=0,
    num_beams=1,
    prompt=None,
)
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
        settings=DEFAULTS.override(Sampling(**kw)),
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
    first: list[int] = []

    class Watched(FakeEngine):
        def step(self, batch: Batch) -> list[Outcome]:
            first.append(len(batch.rows))
            return super().step(batch)

    async with running(Watched()) as worker:
        one, two = ticket("one"), ticket("two")
        worker.coming = 1  # the second is still being prepared
        worker.submit(one)
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
        steps = worker.counters.steps
        engine.let_all()
        assert text(await read(second))
        assert len(first.tasks[0].job.output) <= 2
        assert worker.counters.steps >= steps
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


async def test_a_broken_engine_tells_everybody_and_takes_no_more() -> None:
    crashes: list[BaseException] = []
    engine = FakeEngine(slots=2, reply_tokens=10_000, faults=Faults(fail_on="poison"))
    async with running(engine, on_crash=crashes.append) as worker:
        tickets = [ticket(f"fine {number}", **FOREVER) for number in range(3)]
        for of in tickets:
            worker.submit(of)
        tickets.append(ticket("poison"))
        worker.submit(tickets[-1])
        worker.cancel(tickets[0])
        worker.cancel(tickets[1])
        for of in tickets[2:]:
            with pytest.raises(EngineError):
                await read(of)
        with pytest.raises(EngineError):
            worker.submit(ticket())
    assert len(crashes) == 1


class NanEngine(FakeEngine):
    """One prompt gives logits that are not numbers."""

    def step(self, batch: Batch) -> list[Outcome]:
        outcomes = super().step(batch)
        for row in batch.rows:
            if row.draw and bytes(row.draw.prompt).startswith(b"nan"):
                raise RowError(row.slot, "logits are not numbers")
        return outcomes


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


async def test_generation_goes_on_within_an_embedding() -> None:
    engine = FakeEngine(slots=1, batch_tokens=1000)
    async with running(engine) as worker:
        embeds = Ticket(caller="", inputs=[[number] for number in range(200)])
        talker = ticket(max_tokens=20)
        worker.submit(embeds)
        worker.submit(talker)
        await asyncio.gather(read(embeds), read(talker))
        assert (talker.finished_at or 0) < (embeds.finished_at or 0)


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


async def test_a_silent_ticket_yields_empty_updates() -> None:
    engine = GatedEngine(slots=1)
    async with running(engine) as worker:
        of = ticket()
        worker.submit(of)
        async for updates in of.updates(alive_every_s=0.01):
            assert updates == []
            break


@pytest.mark.parametrize(
    ("whole_prompt", "tokens", "pieces"),
    [
        (False, [FIRST_WORD, FIRST_WORD], [b" zero", b" zero"]),
        (True, [FIRST_WORD, FIRST_WORD], [b"zero", b" zero"]),
        (True, [END, FIRST_WORD, FIRST_WORD], [b"", b"zero", b" zero"]),
        (True, [ord(" "), FIRST_WORD], [b"", b" zero"]),
        (True, [ord("a"), FIRST_WORD], [b"a", b" zero"]),
    ],
)
def test_an_answer_that_continues_nothing_begins_with_no_space(
    whole_prompt: bool, tokens: list[int], pieces: list[bytes]
) -> None:
    """As tokenisers decode: their first token loses its space, even if it is nothing else."""
    engine = FakeEngine()
    engine.limits = replace(engine.limits, whole_prompt=whole_prompt)
    job = Job(caller="", prompt=[1], draw=Draw(), max_tokens=9)
    task = Task(index=0, job=job, text=TextAssembler())
    found = []
    for token in tokens:
        score = Score(token, -1.0, [(token, -1.0)])
        piece, spelling = spelled(task, Generated(job, token, score, False), engine)
        assert spelling and spelling.raw == spelling.top[0].raw == piece
        found.append(piece)
    assert found == pieces
