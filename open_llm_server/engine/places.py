"""Tells requests their place in the queue, and that they have left it."""

from __future__ import annotations

from collections.abc import Mapping

from .admission import Admission
from .job import Job
from .post import Post
from .scheduler import Scheduler
from .ticket import Started, Task, Ticket, Waiting

REPORT_EVERY_S = 0.5
"""How often a waiting request hears of its place."""


class Places:
    """For the worker's thread."""

    def __init__(self, scheduler: Scheduler, admission: Admission) -> None:
        self._scheduler = scheduler
        self._admission = admission
        self._reported_at = 0.0

    def report(self, now: float, tickets: Mapping[Job, tuple[Ticket, Task]], post: Post) -> None:
        """At once for those that are new, then every half second, where something has changed."""
        due = now - self._reported_at >= REPORT_EVERY_S
        if due:
            self._reported_at = now
        for job, (ticket, _) in tickets.items():
            if job.state == "running":
                if ticket.started_at is None:
                    ticket.started_at = now
                    post.put(ticket, Started())
            elif job is ticket.tasks[0].job and (due or ticket.waiting is None):
                # Its first sequence counts: that is when the answer begins.
                place = self._scheduler.position(job)
                if ticket.waiting is None or ticket.waiting.position != place:
                    ticket.waiting = Waiting(place, self._admission.seconds_for(place))
                    post.put(ticket, ticket.waiting)
