"""One request on its way through the worker: its sequences, and the updates that come back.

Made and read on an event loop, filled from the worker thread. Knows neither engine nor frames'
encoding.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..core import FinishReason
from ..errors import OpenLLMError
from ..frames import TokenScore
from .job import Generated, Job

if TYPE_CHECKING:
    from .base import Engine, Score
    from .text import TextAssembler


@dataclass(eq=False, slots=True)
class Task:
    """One sequence of a ticket: choice `index` of the answer."""

    index: int
    job: Job
    text: TextAssembler
    unsent: int = 0
    """New tokens whose text has not gone out yet."""
    begun: bool = False
    """A token with a text has been spelled (kept where a model answers with `whole_prompt`)."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The ticket waits at `position` (1 is next), for about `eta_s` seconds if known."""

    position: int
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Started:
    """The ticket's first sequence has a slot."""


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Log-probabilities of more prompt tokens of choice `index`, from the second token on."""

    index: int
    scores: tuple[TokenScore, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """More text of choice `index`; its last if there is a `reason`."""

    index: int
    text: str
    tokens: int
    scores: tuple[TokenScore, ...] = ()
    reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Vectors:
    """All embeddings that the ticket asked for."""

    vectors: tuple[tuple[float, ...], ...]


Update = Waiting | Started | PromptScores | Piece | Vectors


@dataclass(eq=False)
class Ticket:
    """Either `tasks` to generate or `inputs` to embed."""

    caller: str
    tasks: Sequence[Task] = ()
    inputs: Sequence[Sequence[int]] = ()
    deadline: float | None = None

    submitted_at: float = 0.0
    started_at: float | None = None
    prompted_at: float | None = None
    """When the first new token was there."""
    finished_at: float | None = None
    left: int = 0
    """Sequences or inputs that are not done yet; 0 once the ticket is over."""
    vectors: list[tuple[float, ...]] = field(default_factory=list)
    waiting: Waiting | None = None

    def __post_init__(self) -> None:
        self.left = len(self.tasks) or len(self.inputs)
        self._loop = asyncio.get_running_loop()
        self._updates: list[Update] = []
        self._error: OpenLLMError | None = None
        self._over = False
        self._wake = asyncio.Event()
        self._nudge: asyncio.TimerHandle | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def size(self) -> int:
        """Places that the ticket takes in the queue."""
        return max(1, len(self.tasks))

    def deliver(self, updates: Sequence[Update], over: bool, error: OpenLLMError | None) -> None:
        """Called on the ticket's loop."""
        self._updates.extend(updates)
        self._over = self._over or over
        self._error = self._error or error
        self._wake.set()

    async def updates(self, *, alive_every_s: float) -> AsyncGenerator[list[Update], None]:
        """What arrived since the last look, until the ticket is over; raises its error.

        Yields an empty list after `alive_every_s` seconds in which nothing arrived.
        """
        # One timer for the whole ticket instead of a timeout for each wait: tokens are many.
        self._nudge = self._loop.call_later(alive_every_s, self._nudged, alive_every_s)
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                updates, self._updates = self._updates, []
                if updates or not (self._over or self._error):
                    yield updates
                if self._error:
                    raise self._error
                if self._over and not self._updates:
                    return
        finally:
            self._nudge.cancel()

    def _nudged(self, alive_every_s: float) -> None:
        self._wake.set()
        self._nudge = self._loop.call_later(alive_every_s, self._nudged, alive_every_s)


def token_score(score: Score, piece: Callable[[int], bytes]) -> TokenScore:
    """An engine's score with the texts of its tokens, as `piece` spells them."""
    return TokenScore(
        id=score.token,
        raw=piece(score.token),
        logprob=score.logprob,
        top=tuple(TokenScore(token, piece(token), logprob) for token, logprob in score.top),
    )


def spelled(task: Task, event: Generated, engine: Engine) -> tuple[bytes, TokenScore | None]:
    """The bytes that a new token adds to its answer, and its score in the same spelling.

    An answer that continues no prompt begins without the space that tokenisers put before words.
    """
    piece = engine.piece
    if engine.limits.whole_prompt and not task.begun:
        task.begun = bool(piece(event.token))

        def piece(token: int) -> bytes:
            return engine.piece(token).lstrip(b" ")

    return piece(event.token), token_score(event.score, piece) if event.score else None
