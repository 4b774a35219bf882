"""What the scheduler works on and what it reports: jobs and their events. Pure values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..core import FinishReason
from .base import Draw, Score


@dataclass(eq=False, slots=True)
class Job:
    """One sequence to extend. The first block is the order, the second the scheduler's notes."""

    caller: str
    prompt: Sequence[int] = field(repr=False)
    draw: Draw
    max_tokens: int
    deadline: float | None = None
    """Reading of the caller's clock after which the job is dropped."""
    score_prompt: bool = False
    """Report the log-probability of every prompt token (so no prefix of it is reused)."""
    search: Job | None = None
    """The job whose beam search finds this one's answer too: its next best."""

    state: Literal["new", "waiting", "running", "done"] = "new"
    slot: int = -1
    slots: list[int] = field(default_factory=list)
    """All slots of a beam search, `slot` first; empty where nothing is searched."""
    others: list[Job] = field(default_factory=list)
    """The jobs whose `search` this one is."""
    output: list[int] = field(default_factory=list, repr=False)
    cached: int = 0
    """Prompt tokens that were found evaluated."""
    leader: Job | None = None
    """The job whose prompt, being evaluated now, begins as this one does."""
    shared: int = 0
    """How many tokens this job waits to copy from its leader."""

    def tail(self, start: int, count: int) -> list[int]:
        """At most `count` tokens of prompt and output from position `start` on."""
        edge = len(self.prompt)
        if start >= edge:
            return self.output[start - edge : start - edge + count]
        head = list(self.prompt[start : start + count])
        return head + self.output[: max(0, count - len(head))]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.output)


@dataclass(frozen=True, slots=True)
class Generated:
    """`job` has one more token."""

    job: Job
    token: int
    score: Score | None
    end: bool
    """The token ends the answer and is no part of its text."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities of the next prompt tokens of `job`, in order, from its second on."""

    job: Job
    scores: Sequence[Score]


@dataclass(frozen=True, slots=True)
class Finished:
    """`job` is complete; nothing more comes."""

    job: Job
    reason: FinishReason


Event = Generated | Scored | Finished


def common_prefix(left: Sequence[int], right: Sequence[int], limit: int) -> int:
    """How many tokens both begin with, at most `limit`.

    Compares slices, which costs a tenth of a loop over the tokens.
    """
    high = min(len(left), len(right), max(0, limit))
    low = 0
    if not high or left[0] != right[0]:
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if list(left[low:middle]) == list(right[low:middle]):
            low = middle
        else:
            high = middle - 1
    return low
