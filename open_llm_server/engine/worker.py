"""The one thread that owns a loaded engine: plan, step, commit, deliver.

Everything that touches the engine happens here, so no model call ever runs on an event loop.
Each step wakes an event loop once, with all that the step brought for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from ..core import FinishReason
from ..errors import DeadlineExceeded, Draining, EngineError, OpenLLMError
from .admission import Admission
from .base import Aborted, Batch, Engine, Row, RowError
from .counters import Counters
from .embeds import Embeds, Helping
from .job import Event, Finished, Generated, Job, Scored
from .places import Places
from .post import Post
from .scheduler import Scheduler
from .ticket import Piece, PromptScores, Task, Ticket, Vectors, spelled, token_score

log = logging.getLogger(__name__)

GATHER_S = 0.01
"""An idle engine waits so long for requests that are still being prepared: one that starts alone
makes all the others wait for its whole prompt."""


class _Left(Exception):
    """Whoever asked for the embeddings being made does not want them any more."""


class Worker:
    """Runs tickets on an engine, several at once."""

    def __init__(
        self,
        engine: Engine,
        *,
        queue_size: int,
        running: int | None = None,
        prefill_tokens: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_crash: Callable[[BaseException], None] | None = None,
    ) -> None:
        """`queue_size` sequences may wait beside the `running` ones.

        `on_crash` is called from the worker's thread when the engine broke; every live ticket
        has been given its error by then, and the worker takes no more.
        """
        self._engine = engine
        self._scheduler = Scheduler(engine.limits, running=running, prefill_tokens=prefill_tokens)
        self._running = running or engine.limits.slots
        self._pinned = 0
        self.admission = Admission(self._running + queue_size, clock)
        self._clock = clock
        self._on_crash = on_crash
        self.counters = Counters()
        self.crash: BaseException | None = None
        self.last_step_at = clock()
        self.coming = 0
        """Requests that are being prepared and will be submitted in a moment."""
        self._call_began_at: float | None = None

        self._lock = threading.Lock()
        self._woken = threading.Condition(self._lock)
        self._new: list[Ticket] = []
        self._leaving: list[Ticket] = []
        self._stopping = False
        self._current: set[Job] = set()

        self._tickets: dict[Job, tuple[Ticket, Task]] = {}
        self._embeds = Embeds()
        self._post = Post()
        self._places = Places(self._scheduler, self.admission)
        self._thread: threading.Thread | None = None

    # -- from any thread ------------------------------------------------------------------

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its step, frees the engine."""
        with self._woken:
            self._stopping = True
            self._woken.notify()
        self._engine.abort()
        if self._thread:
            self._thread.join()

    def submit(self, ticket: Ticket) -> None:
        """Queues `ticket`, or raises QueueFull; its updates arrive on its own loop."""
        with self._woken:
            self.refuse_if_gone()
            ticket.submitted_at = self.admission.enter(ticket.size)
            self._new.append(ticket)
            self._woken.notify()

    def refuse_if_gone(self) -> None:
        """Raises what a request must hear that cannot be served any more."""
        if self.crash:
            raise EngineError("the model's engine is being replaced; try again", retry_after=1.0)
        if self._stopping:
            raise Draining("this model is being stopped; try again elsewhere or later")

    def cancel(self, ticket: Ticket) -> None:
        """Ends `ticket` before the next step; harmless when it is over already."""
        with self._woken:
            self._leaving.append(ticket)
            jobs = {task.job for task in ticket.tasks}
            if self._current and self._current <= jobs:
                self._engine.abort()  # nobody else waits for this step
            self._woken.notify()

    @property
    def num_running(self) -> int:
        return self._scheduler.num_running

    @property
    def num_waiting(self) -> int:
        return max(0, self.admission.live - self._scheduler.num_answers)

    @property
    def running(self) -> int:
        """Sequences that are worked on at once."""
        return self._running

    @property
    def step_age_s(self) -> float | None:
        """How long the engine has been at the call that it is in now, if it is in one."""
        began_at = self._call_began_at
        return None if began_at is None else self._clock() - began_at

    def give_up(self, error: EngineError) -> None:
        """Fails every live ticket now, though the engine does not return; takes no more."""
        self.crash = self.crash or error
        post, tasks = Post(), list(self._tickets.values())  # the other post is the thread's own
        for ticket in {*(ticket for ticket, _ in tasks), *list(self._embeds), *list(self._new)}:
            post.close(ticket, error)
        post.deliver()

    # -- the worker's thread --------------------------------------------------------------

    def pin(self, tokens: Sequence[int]) -> None:
        """Evaluates `tokens` once into a slot of their own, from where every caller shares them.

        To be called before `start`: the slots are then used from the end.
        """
        self._pinned += 1
        slot = self._engine.limits.slots - self._pinned
        chunk = self._engine.limits.batch_tokens
        for start in range(0, len(tokens), chunk):
            row = Row(slot=slot, tokens=tokens[start : start + chunk], start=start)
            self._engine.step(Batch(rows=[row]))
        self._scheduler.pin(slot, tokens)

    def pump(self) -> bool:
        """One round; false when there was nothing to do."""
        stepped = self._round()
        embedded = self._embed()
        self._post.deliver()
        return stepped or embedded

    def _round(self) -> bool:
        """Takes in what came, drops what is late, and steps once."""
        self._receive()
        now = self._clock()
        self._drop_late(now)
        batch = self._scheduler.plan()
        self._places.report(now, self._tickets, self._post)
        if batch.rows or batch.trims or batch.copies:
            self._step(batch)
        self._post.deliver()
        return bool(batch.rows)

    def _drop_late(self, now: float) -> None:
        late = [self._tickets[job][0] for job in self._scheduler.expired(now)]
        late += [t for t in self._embeds if t.deadline is not None and t.deadline <= now]
        for ticket in dict.fromkeys(late):
            self._fail(
                ticket, DeadlineExceeded("the request's time ran out; allow more, or ask for less")
            )

    def _run(self) -> None:
        try:
            while True:
                with self._woken:
                    while not (self._new or self._leaving or self._stopping or self._busy()):
                        self._woken.wait()
                    if not self._busy():
                        self._gather()
                    if self._stopping:
                        break
                self.pump()
            self._let_go(Draining("this model is being stopped; try again elsewhere or later"))
            self._engine.close()
        except BaseException as broken:
            # A broken engine is not worth freeing: that may hang, and others still look at it.
            self._die(broken)

    def _gather(self) -> None:
        """Lets what arrives together start together. Called with the lock held."""
        ends_at = time.monotonic() + GATHER_S
        while self.coming > 0 and not self._stopping:
            left_s = ends_at - time.monotonic()
            if left_s <= 0 or not self._woken.wait(left_s):
                break

    def _busy(self) -> bool:
        return bool(self._tickets or self._embeds)

    def _receive(self) -> None:
        with self._lock:
            new, self._new = self._new, []
            leaving, self._leaving = self._leaving, []
        for ticket in new:
            for task in ticket.tasks:
                self._tickets[task.job] = (ticket, task)
                self._scheduler.add(task.job)
            if ticket.inputs:
                self._embeds.add(ticket)
        for ticket in leaving:
            if ticket.left:
                self.counters.cancelled += 1
                self._drop(ticket)

    def _step(self, batch: Batch) -> None:
        with self._lock:
            self._current = {
                job for job in self._scheduler.jobs() if job.state == "running" and not job.leader
            }
        self._call_began_at = self._clock()
        try:
            outcomes = self._engine.step(batch)
        except Aborted:
            self._scheduler.undo(batch)
            return
        except RowError as bad:
            self._scheduler.undo(batch)
            self._fail_slot(bad)
            return
        finally:
            self._call_began_at = None
            with self._lock:
                self._current = set()
        self.counters.steps += 1
        self.last_step_at = self._clock()
        for event in self._scheduler.commit(batch, outcomes):
            self._take(event)

    def _take(self, event: Event) -> None:
        found = self._tickets.get(event.job)
        if found is None:
            return  # a stop text ended it earlier in this step
        ticket, task = found
        now = self.last_step_at
        if ticket.prompted_at is None and not isinstance(event, Scored):
            ticket.prompted_at = now
        match event:
            case Scored():
                scores = tuple(token_score(score, self._engine.piece) for score in event.scores)
                self._post.put(ticket, PromptScores(task.index, scores))
            case Generated():
                self._generated(ticket, task, event)
            case Finished():
                self._close(ticket, task, task.text.flush(), event.reason)

    def _generated(self, ticket: Ticket, task: Task, event: Generated) -> None:
        self.counters.completion_tokens += 1
        task.unsent += 1
        if event.end:
            return  # Finished follows
        piece, score = spelled(task, event, self._engine)
        text = task.text.push(piece, score)
        if task.text.stopped:
            self._scheduler.finish(task.job)
            self._close(ticket, task, text, "stop")
        elif text:
            self._send(ticket, task, text)

    def _send(
        self, ticket: Ticket, task: Task, text: str, reason: FinishReason | None = None
    ) -> None:
        scores = tuple(item for item in task.text.take_items() if item is not None)
        piece = Piece(task.index, text, task.unsent, scores, reason)
        task.unsent = 0
        self._post.put(ticket, piece)

    def _close(self, ticket: Ticket, task: Task, text: str, reason: FinishReason) -> None:
        """The last words of one sequence."""
        self._send(ticket, task, text, reason)
        self.counters.prompt_tokens += len(task.job.prompt)
        self.counters.cached_tokens += task.job.cached
        self.counters.finished += 1
        del self._tickets[task.job]
        ticket.left -= 1
        self.admission.leave(1, done=True)
        if ticket.left == 0:
            self._over(ticket)

    def _embed(self) -> bool:
        """One helping of embeddings; generation goes on in between."""
        if not self._embeds:
            return False
        helping = self._embeds.helping(self._engine.limits.batch_tokens)
        self._call_began_at = now = self._clock()
        for ticket, _ in helping:
            ticket.started_at = ticket.started_at or now
        inputs = [tokens for _, tokens in helping]
        try:
            vectors = self._engine.embed(inputs, between=lambda: self._between(helping))
        except _Left:
            return True
        except OpenLLMError as error:  # one input's fault, and nobody else's
            if len({ticket for ticket, _ in helping}) == 1:
                self._fail(helping[0][0], error)
            else:
                self._embeds.separate(helping)
            return True
        finally:
            self._call_began_at = None
        self.last_step_at = self._clock()
        self.counters.embedded_tokens += sum(map(len, inputs))
        for ticket in self._embeds.take_in(helping, vectors):
            self._post.put(ticket, Vectors(tuple(ticket.vectors)))
            self.counters.finished += 1
            self.admission.leave(ticket.size, done=True)
            self._over(ticket)
        return True

    def _between(self, helping: Helping) -> None:
        self._round()
        self._call_began_at = self._clock()
        if not any(ticket.left for ticket, _ in helping):
            raise _Left

    # -- endings --------------------------------------------------------------------------

    def _over(self, ticket: Ticket) -> None:
        ticket.finished_at = self._clock()
        self._post.close(ticket)

    def _fail(self, ticket: Ticket, error: OpenLLMError) -> None:
        if ticket.left:
            self._drop(ticket)
            self._post.close(ticket, error)

    def _fail_slot(self, bad: RowError) -> None:
        for job, (ticket, _) in list(self._tickets.items()):
            if job.state == "running" and job.slot == bad.slot:
                self._fail(ticket, EngineError(f"this request could not be computed: {bad}"))

    def _drop(self, ticket: Ticket) -> None:
        """Takes a ticket that is not over out of everything."""
        if ticket.inputs:
            self._embeds.remove(ticket)
            self.admission.leave(ticket.size, done=False)
        for task in ticket.tasks:
            if self._tickets.pop(task.job, None):
                self._scheduler.finish(task.job)
                self.admission.leave(1, done=False)
        ticket.left = 0
        ticket.finished_at = self._clock()

    def _die(self, broken: BaseException) -> None:
        """The engine is broken: everybody hears it at once, nobody is left waiting."""
        log.error("the engine failed: %s: %s", type(broken).__name__, broken)
        log.info("where it failed", exc_info=broken)
        with self._lock:
            self.crash = broken
        self._let_go(
            EngineError(
                "the model's engine failed on this request or one beside it, and is being "
                "replaced; ask again once, and change the prompt if it fails again"
            )
        )
        if self._on_crash:
            self._on_crash(broken)

    def _let_go(self, error: OpenLLMError) -> None:
        """Nobody is left waiting: every ticket that is here ends with `error`."""
        with self._lock:
            new, self._new = self._new, []
        tickets = [*(ticket for ticket, _ in self._tickets.values()), *self._embeds, *new]
        for ticket in dict.fromkeys(tickets):
            self._post.close(ticket, error)
        self._post.deliver()
