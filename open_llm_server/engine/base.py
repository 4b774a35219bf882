"""The protocol between the worker thread and whatever computes tokens.

An engine speaks token ids only: no text beyond one token's bytes, no requests, no callers. The
scheduler decides what is evaluated where; the engine evaluates it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine can hold, fixed once it is loaded."""

    context_length: int
    """Tokens that one sequence may hold, prompt and answer together."""
    slots: int
    """Sequences that live at once, numbered from 0."""
    batch_tokens: int
    """Tokens that one step may evaluate, over all its rows."""
    vocabulary: int
    end_tokens: frozenset[int]
    """Tokens that end an answer; never given to the caller as text."""
    embedding_size: int | None = None
    """Length of an embedding; `None` where the model gives none."""
    pooling: str = "mean"
    whole_prompt: bool = False
    """An encoder reads the prompt: all of it but its last token must be evaluated in one row, or be
    reused whole; an answer is a text of its own, not the prompt's continuation."""
    prompt_suffix: tuple[int, ...] = ()
    """Tokens that end every prompt: for an encoder-decoder the encoder's end token and, last, the
    token that its decoder begins with."""
    generates: bool = True
    """False: the model makes embeddings only."""


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """How to choose one sequence's tokens; every value is set. One object lives as long as its
    sequence, so an engine may keep its sampler's state beside it (identity, not equality).

    `repetition_penalty` counts prompt and answer, `frequency_penalty` and `presence_penalty` the
    answer alone. Temperature 0 is greedy: the likeliest token after penalties.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    logprobs: int | None = None
    """Report the chosen token's log-probability and so many alternatives; `None`: neither.

    Log-probabilities are those of the model, before temperature, penalties and cuts."""
    prompt: Sequence[int] = field(default=(), repr=False)
    """What `repetition_penalty` counts beside the answer: the prompt's tokens, but for an
    encoder-decoder its decoder's first token alone."""
    num_beams: int = 1
    """Above 1: a beam search of this width instead of drawing (encoder-decoders)."""


@dataclass(frozen=True, slots=True)
class Search:
    """A beam search over several slots; the row's own is the first of them."""

    slots: Sequence[int]
    best: int
    """How many hypotheses are wanted, likeliest first."""
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Row:
    """One slot's share of a step: evaluate `tokens` at positions `start`, `start + 1`, …"""

    slot: int
    tokens: Sequence[int]
    start: int
    draw: Draw | None = None
    """Choose the token after the last of `tokens` in this way; `None`: more prompt follows."""
    targets: Sequence[int] = ()
    """Score these too: `targets[i]` follows `tokens[i]`. May be one shorter than `tokens`."""
    top: int = 0
    """How many alternatives to report with each scored target."""
    search: Search | None = None
    """A beam search instead of `draw`'s choice. Its first row brings the prompt, the following
    ones have no tokens: the engine knows the beams'."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Before the rows: `target` shall hold what `source` holds at positions 0 … `length` - 1,
    and nothing else."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's work, in this order: trims, copies, rows. A slot has one row at most."""

    trims: Sequence[tuple[int, int]] = ()
    """(slot, length): forget what the slot holds at positions from `length` on."""
    copies: Sequence[Copy] = ()
    rows: Sequence[Row] = ()

    @property
    def tokens(self) -> int:
        return sum(len(row.tokens) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Score:
    """A token, its log-probability, and the likeliest tokens at its place."""

    token: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """An answer that a beam search found."""

    tokens: tuple[int, ...]
    """New tokens only; with the end token, if that ended it."""
    score: float
    """Summed log-probability (after penalties) / length ** length penalty."""
    ended: bool
    """True: by an end token, its last; False: at the greatest length."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a row brought: the chosen token if it had a `draw`, scores if it had `targets`, the
    best hypotheses when its `search` is over."""

    slot: int
    token: int | None = None
    score: Score | None = None
    targets: Sequence[Score] = field(default=())
    found: Sequence[Hypothesis] = ()


class Aborted(Exception):
    """A step was broken off by `Engine.abort`; nothing of its rows counts as evaluated."""


class RowError(Exception):
    """One row cannot be evaluated (say, its logits are not numbers); the others can.

    Nothing of the step's rows counts: the worker ends that row's job, trims the other slots back
    and plans again.
    """

    def __init__(self, slot: int, message: str) -> None:
        super().__init__(message)
        self.slot = slot


class Engine(Protocol):
    """One loaded model.

    `tokenize`, `piece` and `abort` may be called from any thread; `step`, `forget`, `embed` and
    `close` only from the one thread that owns the engine.
    """

    @property
    def limits(self) -> Limits: ...

    @property
    def control_texts(self) -> frozenset[str]:
        """Spellings of control tokens: text from a caller must not turn into these."""
        ...

    @property
    def begin_text(self) -> str:
        """How chat templates spell the begin token; empty where there is none."""
        ...

    @property
    def end_text(self) -> str:
        """How chat templates spell the end token; empty where there is none."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that came with the weights, if any."""
        ...

    def tokenize(self, text: str, *, begin: bool, control: bool) -> list[int]:
        """Token ids of `text`; with the model's begin token if it uses one and `begin` is set.

        Spellings of control tokens become those tokens only if `control` is set.
        """
        ...

    def piece(self, token: int) -> bytes:
        """The bytes that `token` adds to a text; empty for control tokens."""
        ...

    def step(self, batch: Batch) -> list[Outcome]:
        """Evaluates `batch` and returns one outcome a row, in order.

        Raises Aborted, RowError for one bad row, or anything else when the engine is broken.
        """
        ...

    def forget(self, slot: int) -> None:
        """Frees what the slot holds."""
        ...

    def embed(
        self, inputs: Sequence[Sequence[int]], *, between: Callable[[], None] = lambda: None
    ) -> list[list[float]]:
        """One L2-normalised vector of length `limits.embedding_size` for each input.

        Touches no slot. Calls `between` now and then, which may step, so that a long input holds
        nobody up; what it raises ends the call. Raises OpenLLMError when an input is at fault.
        """
        ...

    def abort(self) -> None:
        """Asks a running `step` to leave early with Aborted; without one, nothing happens."""
        ...

    def close(self) -> None:
        """Frees the model."""
        ...
