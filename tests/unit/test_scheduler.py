"""The scheduler against the fake engine: whatever arrives, everybody gets their own words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_llm_server.engine.base import Batch, Draw
from open_llm_server.engine.fake import FakeEngine
from open_llm_server.engine.job import Finished, Generated, Job, Scored, common_prefix
from open_llm_server.engine.scheduler import Scheduler

CONTEXT = 96
BATCH = 24


def make_job(
    prompt: str, *, caller: str = "a", max_tokens: int = 8, score: bool = False, **kw: Any
) -> Job:
    tokens = list(prompt.encode())
    return Job(
        caller=caller,
        prompt=tokens,
        draw=Draw(prompt=tokens, logprobs=1 if score else None),
        max_tokens=max_tokens,
        score_prompt=score,
        **kw,
    )


@dataclass
class Bench:
    """A scheduler and an engine, stepped by hand; checks each batch as it passes."""

    slots: int = 3
    running: int | None = None
    reply_tokens: int = 5
    ends: dict[Job, str] = field(default_factory=dict)
    scores: dict[Job, int] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine = FakeEngine(
            context_length=CONTEXT,
            slots=self.slots,
            batch_tokens=BATCH,
            reply_tokens=self.reply_tokens,
        )
        self.scheduler = Scheduler(self.engine.limits, running=self.running)

    def step(self) -> bool:
        batch = self.scheduler.plan()
        self.batches.append(batch)
        assert batch.tokens <= BATCH
        slots = [row.slot for row in batch.rows]
        assert len(slots) == len(set(slots)), "one row a slot"
        assert all(row.tokens for row in batch.rows)
        outcomes = self.engine.step(batch)
        for event in self.scheduler.commit(batch, outcomes):
            match event:
                case Finished():
                    assert event.job not in self.ends
                    self.ends[event.job] = event.reason
                case Scored():
                    self.scores[event.job] = self.scores.get(event.job, 0) + len(event.scores)
                case Generated():
                    assert event.job not in self.ends
        return bool(batch.rows)

    def run(self, most: int = 10_000) -> None:
        for _ in range(most):
            if not self.step():
                assert not list(self.scheduler.jobs()), "jobs are left, and nothing to do"
                return
        raise AssertionError("the work does not end")


def alone(prompt: str, max_tokens: int, reply_tokens: int = 5) -> list[int]:
    bench = Bench(slots=1, reply_tokens=reply_tokens)
    job = make_job(prompt, max_tokens=max_tokens)
    bench.scheduler.add(job)
    bench.run()
    return job.output


PROMPTS = st.one_of(
    st.text("ab", min_size=1, max_size=CONTEXT - 2),
    st.builds(
        lambda head, tail: (head * CONTEXT)[:40] + tail,
        st.sampled_from(["system one ", "system two "]),
        st.text("xyz", min_size=1, max_size=12),
    ),
)
ARRIVAL = st.tuples(
    st.integers(0, 12),  # steps until it comes
    st.sampled_from("abc"),  # caller
    PROMPTS,
    st.integers(1, 9),  # max_tokens
    st.one_of(st.none(), st.integers(0, 12)),  # cancelled after so many steps
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ARRIVAL, min_size=1, max_size=12), st.integers(1, 4))
def test_everybody_gets_the_words_they_would_get_alone(
    arrivals: list[tuple[int, str, str, int, int | None]], slots: int
) -> None:
    bench = Bench(slots=slots)
    jobs: list[tuple[Job, str, int, int | None]] = []
    waiting = sorted(arrivals, key=lambda one: one[0])
    clock = 0
    while waiting or bench.scheduler.num_running or bench.scheduler.num_waiting:
        while waiting and waiting[0][0] <= clock:
            _, caller, prompt, max_tokens, leave = waiting.pop(0)
            job = make_job(prompt, caller=caller, max_tokens=max_tokens)
            bench.scheduler.add(job)
            jobs.append((job, prompt, max_tokens, None if leave is None else clock + leave))
        for job, _, _, leave_at in jobs:
            if leave_at == clock and job.state != "done":
                bench.scheduler.finish(job)
        bench.step()
        clock += 1
        assert clock < 5000
    for job, prompt, max_tokens, leave_at in jobs:
        assert job.state == "done"
        expected = alone(prompt, max_tokens)
        if leave_at is None:
            assert job.output == expected
            assert job in bench.ends
        else:
            assert job.output == expected[: len(job.output)]


def test_undone_steps_leave_no_trace() -> None:
    bench = Bench(slots=2)
    jobs = [make_job("undo me " * 8, max_tokens=6), make_job("another", max_tokens=6)]
    for job in jobs:
        bench.scheduler.add(job)
    for round_ in range(200):
        if round_ % 3 == 1:
            batch = bench.scheduler.plan()
            bench.engine.step(batch)  # evaluated, and then broken off
            bench.scheduler.undo(batch)
        elif not bench.step():
            break
    assert [job.output for job in jobs] == [alone("undo me " * 8, 6), alone("another", 6)]


def test_a_prefix_is_shared_within_a_caller_and_never_across() -> None:
    bench = Bench(slots=3)
    first = make_job("a common system prompt. one", caller="a")
    bench.scheduler.add(first)
    bench.run()
    same = make_job("a common system prompt. two", caller="a")
    other = make_job("a common system prompt. two", caller="b")
    bench.scheduler.add(other)
    bench.scheduler.add(same)
    bench.run()
    assert same.cached == len("a common system prompt. ")
    assert other.cached == 0
    assert same.output == other.output


@pytest.mark.parametrize("long", [False, True])
def test_a_long_source_is_not_moved_for_a_short_prefix(
    monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    monkeypatch.setattr("open_llm_server.engine.scheduler.MOST_CARRIED", 3)
    bench = Bench(slots=3)
    head = "twenty letters or so "
    source = make_job(head + "x" * ((3 if long else 1) * len(head)), caller="a")
    bench.scheduler.add(source)
    bench.run()
    job = make_job(head + "two", caller="a")
    bench.scheduler.add(job)
    bench.run()
    assert job.cached == (0 if long else len(head))
    assert any(batch.copies for batch in bench.batches) == (not long)


def test_callers_that_arrive_together_pay_for_their_prefix_once() -> None:
    bench = Bench(slots=8)
    head = "one long system prompt that all of these share: "
    jobs = [make_job(head + str(number)) for number in range(8)]
    for job in jobs:
        bench.scheduler.add(job)
    bench.run()
    prompt_tokens = bench.engine.evaluated_tokens - sum(len(job.output) for job in jobs)
    assert prompt_tokens < len(head) + 8 * 4
    assert [job.output for job in jobs] == [alone(head + str(number), 8) for number in range(8)]


def test_followers_go_on_without_a_leader_that_leaves() -> None:
    bench = Bench(slots=3)
    head = "x" * 60
    leader, follower = make_job(head + "1"), make_job(head + "2")
    bench.scheduler.add(leader)
    bench.scheduler.add(follower)
    bench.step()
    assert follower.leader is leader
    bench.scheduler.finish(leader)
    bench.run()
    assert follower.output == alone(head + "2", 8)
    assert follower.cached > 0, "what the leader had evaluated is used"


def test_followers_of_a_leader_that_left_find_another() -> None:
    bench = Bench(slots=4)
    head = "a prompt that takes several steps to be read; "
    jobs = [make_job(head + name, caller="a") for name in "abcd"]
    for job in jobs:
        bench.scheduler.add(job)
    bench.step()
    bench.scheduler.finish(jobs[0])
    bench.run()
    evaluated = sum(len(row.tokens) for batch in bench.batches for row in batch.rows)
    rest = sum(len(job.prompt) - len(head) + len(job.output) for job in jobs)
    assert evaluated <= len(head) + BATCH + rest
    assert all(job.output for job in jobs[1:])


def test_a_pinned_prefix_serves_every_caller() -> None:
    bench = Bench(slots=3)
    head = list(b"the operator's own words ")
    from open_llm_server.engine.base import Row

    bench.engine.step(Batch(rows=[Row(slot=2, tokens=head, start=0)]))
    bench.scheduler.pin(2, head)
    jobs = [make_job("the operator's own words " + name, caller=name) for name in "abcd"]
    for job in jobs:
        bench.scheduler.add(job)
    bench.run()
    assert [job.cached for job in jobs] == [len(head)] * 4
    assert all(row.slot != 2 for batch in bench.batches for row in batch.rows)


def test_the_caller_that_was_served_least_goes_next() -> None:
    bench = Bench(slots=1)
    greedy = [make_job("greedy " + str(number), caller="greedy") for number in range(4)]
    for job in greedy:
        bench.scheduler.add(job)
    bench.step()
    modest = make_job("modest", caller="modest")
    bench.scheduler.add(modest)
    bench.step()
    assert bench.scheduler.position(modest) == 1
    assert [bench.scheduler.position(job) for job in greedy[1:]] == [2, 3, 4]
    bench.run()
    order = list(bench.ends)
    assert order.index(modest) == 1


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    bench = Bench(slots=2)
    long, short = make_job("l" * 90), make_job("short")
    bench.scheduler.add(long)
    bench.scheduler.add(short)
    bench.step()
    assert short.output and not long.output


def test_prompts_are_chunked_between_decode_steps() -> None:
    bench = Bench(slots=2, reply_tokens=50)
    talker = make_job("talk", max_tokens=20)
    bench.scheduler.add(talker)
    bench.step()
    reader = make_job("r" * 80, max_tokens=1)
    bench.scheduler.add(reader)
    while not reader.output:
        before = len(talker.output)
        bench.step()
        assert len(talker.output) == before + 1
    assert max(len(row.tokens) for batch in bench.batches for row in batch.rows) <= BATCH // 2 + 1


def test_the_end_of_the_context_ends_an_answer() -> None:
    bench = Bench(slots=1, reply_tokens=1000)
    job = make_job("p" * (CONTEXT - 3), max_tokens=1000)
    bench.scheduler.add(job)
    bench.run()
    assert bench.ends[job] == "length"
    assert len(job) == CONTEXT


def test_an_end_token_ends_an_answer_with_stop() -> None:
    bench = Bench(slots=1, reply_tokens=3)
    job = make_job("p", max_tokens=100)
    bench.scheduler.add(job)
    bench.run()
    assert bench.ends[job] == "stop"
    assert len(job.output) == 4  # three words and the end


def test_every_prompt_token_is_scored_in_chunks() -> None:
    bench = Bench(slots=2)
    text = "score all of these tokens, please, in as many chunks as it takes"
    bench.scheduler.add(make_job(text))
    bench.run()
    job = make_job(text, score=True, max_tokens=0)
    bench.scheduler.add(job)
    bench.run()
    assert job.cached == 0, "what was not evaluated again cannot be scored"
    assert bench.scores[job] == len(text) - 1
    assert bench.ends[job] == "length"
    assert job.output == []


def test_deadlines_are_found() -> None:
    bench = Bench(slots=1)
    jobs = [make_job("soon", deadline=5.0), make_job("later", deadline=50.0), make_job("never")]
    for job in jobs:
        bench.scheduler.add(job)
    assert bench.scheduler.expired(4.9) == []
    assert bench.scheduler.expired(5.0) == [jobs[0]]


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.integers(-1, 20))
def test_common_prefix(left: list[int], right: list[int], limit: int) -> None:
    expected = 0
    for one, two in zip(left[: max(limit, 0)], right, strict=False):
        if one != two:
            break
        expected += 1
    assert common_prefix(left, right, limit) == expected
