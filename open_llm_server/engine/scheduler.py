"""Decides what each step evaluates: waiting, running, slots, prefixes, fairness, deadlines.

Pure: it knows token ids, callers and a clock reading that it is given; no engine, no thread, no
text. One loop drives it: `plan` makes a batch, `commit` takes in what the batch brought.

Order between callers: the one that was served least goes first (virtual token counters, after
Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024); within a caller, first
come, first served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .base import Batch, Copy, Hypothesis, Limits, Outcome, Row, Score, Search
from .job import Event, Finished, Generated, Job, Scored, common_prefix
from .shares import shares

OUTPUT_WEIGHT = 2.0
"""An answer's token costs its caller as much as this many of a prompt's (the paper's choice)."""
MIN_SHARED = 16
"""Shorter prefixes are evaluated again, which costs about as much; but by no encoder."""
MOST_CARRIED = 32
"""A copy may move all that its source holds: more than so many times the shared part, and
evaluating that part again costs less."""


@dataclass(eq=False, slots=True)
class _Slot:
    number: int
    tokens: list[int] = field(default_factory=list)
    """What the engine holds for this slot, by position."""
    encoded: int = 0
    """How many of these an encoder read: they are of use as a whole only."""
    caller: str = ""
    job: Job | None = None
    last_used: int = 0
    pinned: bool = False

    @property
    def idle(self) -> bool:
        return self.job is None and not self.pinned


class Scheduler:
    """The state of one engine's work. Not thread-safe: the worker thread owns it."""

    def __init__(
        self, limits: Limits, *, running: int | None = None, prefill_tokens: int | None = None
    ) -> None:
        """`running` sequences are worked on at once, at most all slots but the pinned ones.

        `prefill_tokens` bounds the prompt tokens of a step that others wait in to decode; up to
        twice as many are taken when those others are few.
        """
        self._limits = limits
        self._slots = [_Slot(number) for number in range(limits.slots)]
        self._running_limit = min(running or limits.slots, limits.slots)
        self._prefill_tokens = min(
            prefill_tokens or max(1, limits.batch_tokens // 2), limits.batch_tokens
        )
        self._waiting: dict[str, deque[Job]] = {}
        self._served: dict[str, float] = {}
        self._running: list[Job] = []
        self._trims: list[tuple[int, int]] = []
        self._clock = 0
        self.reused_tokens = 0
        self._least = 1 if limits.whole_prompt else MIN_SHARED

    # -- orders ---------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        """Puts `job` at the end of its caller's queue."""
        job.state = "waiting"
        if job.search:
            job.search.others.append(job)
            return
        if job.caller not in self._waiting:
            # A caller that comes back has no claim on the time it was away.
            floor = min((self._served[caller] for caller in self._active()), default=0.0)
            self._served[job.caller] = max(self._served.get(job.caller, 0.0), floor)
            self._waiting[job.caller] = deque()
        self._waiting[job.caller].append(job)

    def pin(self, slot: int, tokens: Sequence[int]) -> None:
        """Says that `slot` holds `tokens` for every caller, for good."""
        held = self._slots[slot]
        held.tokens, held.pinned = list(tokens), True
        self._running_limit = min(self._running_limit, sum(slot.idle for slot in self._slots))

    def finish(self, job: Job) -> None:
        """Ends `job` wherever it is; its slot is free for the next plan."""
        if job.state == "waiting" and not job.search:
            queue = self._waiting[job.caller]
            queue.remove(job)
            if not queue:
                del self._waiting[job.caller]
        elif job.state == "running":
            self._running.remove(job)
            for slot in [self._slots[number] for number in job.slots or [job.slot]]:
                slot.job = None
                slot.last_used = self._clock
                if job.slots:  # what beams wrote is nobody's; the prompt may be asked again
                    slot.tokens = slot.tokens[: slot.encoded]
                    self._trims.append((slot.number, len(slot.tokens)))
        job.state = "done"
        if not self._running and not self._waiting:
            self._served.clear()

    def expired(self, now: float) -> list[Job]:
        """Jobs whose deadline has passed; the caller finishes them."""
        return [job for job in self.jobs() if job.deadline is not None and job.deadline <= now]

    # -- facts ----------------------------------------------------------------------------

    def jobs(self) -> Iterator[Job]:
        yield from self._running
        for queue in self._waiting.values():
            yield from queue

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_answers(self) -> int:
        """Answers that the running jobs write; a beam search writes several."""
        return sum(1 + len(job.others) for job in self._running)

    @property
    def num_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def position(self, job: Job) -> int:
        """The place of a waiting job in the queue, 1 is next; 0 once it runs."""
        if job.state != "waiting":
            return 0
        index = self._waiting[job.caller].index(job)
        own = self._served[job.caller]
        # Callers take turns: whoever was served less is one turn ahead of us.
        others = sum(
            min(len(queue), index + (1 if self._served[caller] < own else 0))
            for caller, queue in self._waiting.items()
            if caller != job.caller
        )
        return index + others + 1

    # -- the loop -------------------------------------------------------------------------

    def plan(self) -> Batch:
        """The next step. Empty rows mean that there is nothing to do."""
        self._clock += 1
        trims, self._trims = self._trims, []
        copies: list[Copy] = []
        for follower in self._running:
            if follower.leader:
                self._follow(follower, trims, copies)
        while self._taken < self._running_limit:
            # Trims go before copies, so what is copied from must not be given away as well.
            sources = {copy.source for copy in copies}
            idle = [slot for slot in self._slots if slot.idle and slot.number not in sources]
            room = min(len(idle), self._running_limit - self._taken)
            if not (job := self._next(room)):
                break
            self._admit(job, idle, trims, copies)
        return Batch(trims, copies, self._rows())

    def undo(self, batch: Batch) -> None:
        """The rows of `batch` do not count: what they left in their slots goes away."""
        self._trims += [(row.slot, row.start) for row in batch.rows if row.tokens]

    def commit(self, batch: Batch, outcomes: Sequence[Outcome]) -> list[Event]:
        """Takes in what `batch` brought, in its order."""
        events: list[Event] = []
        for row, outcome in zip(batch.rows, outcomes, strict=True):
            slot = self._slots[row.slot]
            slot.tokens.extend(row.tokens)
            job = slot.job
            if job is None:  # finished while the step ran
                continue
            if outcome.targets:
                events.append(Scored(job, outcome.targets))
            if outcome.token is not None:
                self._charge(job.caller, OUTPUT_WEIGHT)
                events.extend(self._generated(job, outcome.token, outcome.score))
            elif row.search:
                self._charge(job.caller, OUTPUT_WEIGHT * len(job.slots))
                if outcome.found:
                    events.extend(self._found(job, outcome.found))
            elif job.max_tokens == 0 and len(slot.tokens) == len(job.prompt):
                self.finish(job)
                events.extend(Finished(one, "length") for one in (job, *job.others))
        return events

    # -- parts ----------------------------------------------------------------------------

    def _generated(self, job: Job, token: int, score: Score | None) -> Iterator[Event]:
        job.output.append(token)
        end = token in self._limits.end_tokens
        yield Generated(job, token, score, end)
        full = len(job) >= self._limits.context_length
        if end or full or len(job.output) >= job.max_tokens:
            self.finish(job)
            yield Finished(job, "stop" if end else "length")

    def _found(self, job: Job, found: Sequence[Hypothesis]) -> Iterator[Event]:
        """A beam search is over: each of its jobs gets a hypothesis."""
        self.finish(job)
        for one, hypothesis in zip((job, *job.others), found, strict=True):
            for place, token in enumerate(hypothesis.tokens, 1):
                one.output.append(token)
                end = hypothesis.ended and place == len(hypothesis.tokens)
                yield Generated(one, token, None, end)
            yield Finished(one, "stop" if hypothesis.ended else "length")

    @property
    def _taken(self) -> int:
        return sum(max(1, len(job.slots)) for job in self._running)

    def _active(self) -> set[str]:
        return {job.caller for job in self._running} | set(self._waiting)

    def _charge(self, caller: str, tokens: float) -> None:
        self._served[caller] = self._served.get(caller, 0.0) + tokens

    def _next(self, room: int) -> Job | None:
        """Takes the next job out of the queues, if it is content with `room` slots.

        Nobody overtakes a beam search that waits for more: it would wait for ever.
        """
        if not self._waiting:
            return None
        caller = min(self._waiting, key=self._served.__getitem__)
        queue = self._waiting[caller]
        if queue[0].draw.num_beams > room:
            return None
        job = queue.popleft()
        if not queue:
            del self._waiting[caller]
        self._charge(caller, len(job.prompt))
        return job

    def _admit(
        self, job: Job, idle: list[_Slot], trims: list[tuple[int, int]], copies: list[Copy]
    ) -> None:
        """Gives `job` one of `idle`, with as much of its prompt in it as is held anywhere."""
        best, length = self._held_prefix(job)
        job.leader, job.shared = self._leader(job, length)
        beams = job.draw.num_beams
        if best in idle and (2 * length >= len(best.tokens) or beams > 1):
            slot = best  # a conversation that goes on: it stays where it is
        else:
            slot = min(idle, key=lambda slot: (slot is best, bool(slot.tokens), slot.last_used))
        if slot is best:
            if len(slot.tokens) > length:
                trims.append((slot.number, length))
        else:
            if slot.tokens:
                trims.append((slot.number, 0))
            if best and job.leader is None and len(best.tokens) <= MOST_CARRIED * length:
                copies.append(Copy(best.number, slot.number, length))
            else:
                length = 0
        slot.tokens = list(job.prompt[:length])
        slot.encoded = len(job.prompt) - 1 if self._limits.whole_prompt else 0
        slot.job, slot.caller, slot.last_used = job, job.caller, self._clock
        job.slot, job.state, job.cached = slot.number, "running", length
        self.reused_tokens += length
        self._running.append(job)
        if beams > 1:
            self._spread(job, [other for other in idle if other is not slot], trims)

    def _spread(self, job: Job, idle: list[_Slot], trims: list[tuple[int, int]]) -> None:
        """Gives a beam search the slots of its other beams."""
        idle.sort(key=lambda slot: (bool(slot.tokens), slot.last_used))
        for slot in idle[: job.draw.num_beams - 1]:
            if slot.tokens:
                trims.append((slot.number, 0))
            slot.tokens, slot.encoded, slot.job, slot.caller = [], 0, job, job.caller
        job.slots = [slot.number for slot in self._slots if slot.job is job]
        job.slots.sort(key=lambda number: number != job.slot)

    def _held_prefix(self, job: Job) -> tuple[_Slot | None, int]:
        """The slot that holds the most of the beginning of this prompt, for this caller.

        The prompt's last token is always evaluated: the first new token is drawn from it.
        """
        best: _Slot | None = None
        length = 0
        if job.score_prompt:
            return best, length
        for slot in self._slots:
            if slot.pinned or slot.caller == job.caller:
                common = self._usable(slot.tokens, slot.encoded, job)
                # Of equals an idle slot is better: nothing needs to be copied.
                if common > length or (common == length and best and best.job and not slot.job):
                    best, length = slot, common
        # The operator's pre-prompt is never evaluated again, however short it is.
        if length < self._least and not (best and best.pinned and length == len(best.tokens)):
            return None, 0
        return best, length

    def _usable(self, tokens: Sequence[int], encoded: int, job: Job) -> int:
        """How many of `tokens`, the first `encoded` of them read by an encoder, `job` can use."""
        edge = len(job.prompt) - 1
        if self._limits.whole_prompt and encoded != edge:
            return 0
        common = common_prefix(tokens, job.prompt, edge)
        return common if common == edge or not self._limits.whole_prompt else 0

    def _leader(self, job: Job, held: int, *, again: bool = False) -> tuple[Job | None, int]:
        """A running job that is about to evaluate more of this prompt than is held now.

        `again`: for a job whose leader left; it follows no follower, or two might wait for each
        other.
        """
        best: Job | None = None
        length = held + self._least - 1
        if job.score_prompt:
            return None, 0
        for other in self._running:
            if other is job or (again and other.leader):
                continue
            if other.caller == job.caller and other.slot >= 0:
                if len(self._slots[other.slot].tokens) >= len(other.prompt):
                    continue  # its prompt is done: counted as held
                common = self._usable(other.prompt, len(other.prompt) - 1, job)
                if common > length:
                    best, length = other, common
        return best, length if best else 0

    def _follow(self, job: Job, trims: list[tuple[int, int]], copies: list[Copy]) -> None:
        """Copies from the leader what both share as soon as it is there, or stops waiting."""
        leader = job.leader
        assert leader is not None
        source = self._slots[leader.slot]
        alive = leader.state == "running"
        ready = alive and len(source.tokens) >= job.shared
        if not ready and alive:
            return
        job.leader = None
        length = job.shared
        if not alive:  # it left early; its slot may hold a part, or somebody else's tokens
            mine = source.caller == job.caller
            length = (
                min(job.shared, self._usable(source.tokens, source.encoded, job)) if mine else 0
            )
            job.leader, job.shared = self._leader(job, length, again=True)
            if job.leader:
                return
        slot = self._slots[job.slot]
        if length >= len(slot.tokens) + self._least:
            if slot.tokens:
                trims.append((slot.number, 0))
            self.reused_tokens += length - len(slot.tokens)
            copies.append(Copy(source.number, slot.number, length))
            slot.tokens = list(job.prompt[:length])
            job.cached = length

    def _rows(self) -> list[Row]:
        ready = [job for job in self._running if job.leader is None]
        decoding = [job for job in ready if self._missing(job) == 1 and job.output]
        searching = [job for job in ready if not self._missing(job)]
        prefilling = [job for job in ready if not job.output and self._missing(job)]
        rows = [self._row(job, 1) for job in decoding[: self._limits.batch_tokens]]
        rows += [self._row(job, 0) for job in searching]
        budget = self._limits.batch_tokens - len(rows)
        budget -= sum(len(job.slots) - 1 for job in searching)
        if rows:
            # Where more wait for their first token than for their next, theirs is the time.
            crowd = 2 * len(prefilling) / (len(prefilling) + len(rows))
            budget = min(budget, int(self._prefill_tokens * max(1.0, crowd)))
        taken = shares([self._missing(job) for job in prefilling], budget)
        return rows + [self._row(prefilling[place], count) for place, count in taken.items()]

    def _missing(self, job: Job) -> int:
        return len(job) - len(self._slots[job.slot].tokens)

    def _row(self, job: Job, count: int) -> Row:
        start = len(self._slots[job.slot].tokens)
        if self._limits.whole_prompt and not job.output:
            count = self._missing(job)
        complete = count == self._missing(job)
        search = None
        if job.slots and job.max_tokens > 0:
            search = Search(job.slots, 1 + len(job.others), job.max_tokens)
        targets: Sequence[int] = ()
        if job.score_prompt and not job.output:
            targets = job.prompt[start + 1 : start + count + 1]
        return Row(
            slot=job.slot,
            tokens=job.tail(start, count),
            start=start,
            draw=job.draw if complete and job.max_tokens > 0 else None,
            targets=targets,
            top=job.draw.logprobs or 0,
            search=search,
        )
