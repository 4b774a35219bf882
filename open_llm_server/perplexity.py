"""How well a model foretells a text: perplexity, in overlapping windows, on any engine.

Owns how a text is cut into windows and windows into steps, and what the scores amount to. Knows
the Engine protocol and nothing behind it: no files, no configuration, no terminal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from .engine.base import Batch, Engine, Row
from .errors import ConfigurationError, ContextLengthExceeded, InvalidField, NotSupported

USUAL_WINDOW = 2048
"""Tokens of a window where nobody says: figures in papers are seldom of more."""
PART = 16_384
"""Characters that are tokenised at once: engines refuse texts that cannot fit in their context."""
SHORTEST_PART = 8
_BETWEEN_WORDS = re.compile(r"(?<=[^\W_])(?= [^\W_])")
_BETWEEN_LINES = re.compile(r"(?<=\n)")
_LEAD = "\n"


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens `begin` … `end` - 1 of a text; those from `scored` on are scored in this window."""

    begin: int
    scored: int
    end: int


@dataclass(frozen=True, slots=True)
class Tally:
    """What was scored so far; `negative_log_likelihood` is the sum, in nats."""

    tokens: int
    negative_log_likelihood: float

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self.negative_log_likelihood / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(mean); infinite where that is beyond all numbers."""
        try:
            return math.exp(self.mean)
        except OverflowError:
            return math.inf

    def bits_per_byte(self, size: int) -> float:
        """For a text of `size` bytes: comparable between models with different tokens."""
        return self.negative_log_likelihood / math.log(2) / size


@dataclass(frozen=True, slots=True)
class Text:
    """A text as a model reads it."""

    tokens: Sequence[int]
    scored_bytes: int
    """UTF-8 bytes that the scored tokens stand for: all but the first token's, which nothing
    foretells unless the model has a begin token."""


def windows(tokens: int, *, size: int, stride: int) -> Iterator[Window]:
    """Windows of `size` tokens, `stride` apart, over a text of `tokens`.

    Each token but the first is scored in exactly one window, after at least `size - stride`
    tokens of context where the text has so many. The last window ends with the text and may be
    shorter. This is the sliding window of transformers' guide to the perplexity of fixed-length
    models. Raises ConfigurationError unless 1 <= stride < size.
    """
    check_windows(size, stride)
    begin, scored = 0, 1
    while scored < tokens:
        end = min(begin + size, tokens)
        yield Window(begin, scored, end)
        begin, scored = begin + stride, end


def check_windows(size: int, stride: int) -> None:
    """Raises ConfigurationError unless 1 <= stride < size."""
    if size < 2:
        raise ConfigurationError("--context: a window has at least 2 tokens", param="context")
    if not 1 <= stride < size:
        raise ConfigurationError(
            f"--stride: want 1 to {size - 1}, which is less than the window of {size} tokens",
            param="stride",
        )


def read(engine: Engine, text: str) -> Text:
    """`text` in tokens, with the model's begin token in front if it uses one.

    Control tokens that the text spells are text. A long text is tokenised in parts, cut between
    words where there are any, so that its tokens are those of the whole. Raises InvalidField for
    a text in which there is nothing to score.
    """
    parts = _parts(text)
    tokens = _tokenize(engine, next(parts, ""), begin=True)
    for part in parts:
        tokens += _continue(engine, part)
    size = len(text.encode())
    begin = engine.tokenize("", begin=True, control=False)
    if not begin or tokens[: len(begin)] != begin:
        size -= sum(len(engine.piece(token)) for token in tokens[:1])
    if len(tokens) < 2 or size < 1:
        raise InvalidField(
            f"the text has {len(tokens)} tokens, and one is scored by those before it: at least "
            "2 are needed; take a longer text",
            param="file",
        )
    return Text(tokens, size)


def check(engine: Engine, *, name: str) -> None:
    """Raises NotSupported for a model that has no likelihood of a text as a whole."""
    limits = engine.limits
    if not limits.generates:
        raise NotSupported(f"model {name} makes embeddings only and foretells no text")
    if limits.whole_prompt:
        raise NotSupported(
            f"model {name} is an encoder-decoder: it answers a text and does not continue it, so "
            "the text has no perplexity; take a decoder-only model"
        )


def window_size(engine: Engine, asked: int | None) -> int:
    """A window as `asked`, else the usual one. Raises ConfigurationError if it does not fit."""
    longest = engine.limits.context_length
    if asked is None:
        return min(longest, USUAL_WINDOW)
    if asked > longest:
        raise ConfigurationError(
            f"--context: the model holds {longest} tokens; take at most so many, or a larger "
            "--context-length",
            param="context",
        )
    return asked


def measure(engine: Engine, tokens: Sequence[int], *, size: int, stride: int) -> Iterator[Tally]:
    """Evaluates `tokens` window by window; yields what was scored so far after each step.

    As many windows share a step as fit into it whole or into `limits.batch_tokens`, at most one a
    slot. Raises what `Engine.step` and `windows` raise.
    """
    limits = engine.limits
    waiting = windows(len(tokens), size=size, stride=stride)
    free = list(reversed(range(limits.slots)))
    live: list[_Reading] = []
    count, total = 0, 0.0
    while True:
        live += [_Reading(free.pop(), window) for window in islice(waiting, len(free))]
        if not live:
            return
        rows = _rows(live, tokens, limits.batch_tokens)
        fresh = [(row.slot, 0) for row in rows if row.start == 0]
        for outcome in engine.step(Batch(trims=fresh, rows=rows)):
            count += len(outcome.targets)
            total -= math.fsum(score.logprob for score in outcome.targets)
        free += [reading.slot for reading in live if reading.ended]
        live = [reading for reading in live if not reading.ended]
        if count:
            yield Tally(count, total)


@dataclass(slots=True)
class _Reading:
    """A window on its way through a slot; `at` is the next token to evaluate."""

    slot: int
    window: Window
    at: int = -1

    def __post_init__(self) -> None:
        self.at = self.window.begin

    @property
    def ended(self) -> bool:
        # What follows the last token is nobody's: it needs no evaluation.
        return self.at >= self.window.end - 1

    @property
    def next_end(self) -> int:
        """Where the tokens at `at` end that are evaluated alike: context first, then scored."""
        before = self.window.scored - 1
        return before if self.at < before else self.window.end - 1


def _rows(live: Sequence[_Reading], tokens: Sequence[int], room: int) -> list[Row]:
    """One step's rows. A window takes all that it can use or waits: slivers cost a pass each."""
    rows, most = [], room
    for reading in live:
        count = min(reading.next_end - reading.at, most)
        if count > room:
            continue
        room -= count
        begin, end = reading.at, reading.at + count
        scores = begin >= reading.window.scored - 1
        rows.append(
            Row(
                slot=reading.slot,
                tokens=tokens[begin:end],
                start=begin - reading.window.begin,
                targets=tokens[begin + 1 : end + 1] if scores else (),
            )
        )
        reading.at = end
    return rows


def _parts(text: str, size: int = PART) -> Iterator[str]:
    """`text` in parts of at most `size` characters."""
    start = 0
    while len(text) - start > size:
        end = _cut(text, start, start + size)
        yield text[start:end]
        start = end
    yield text[start:]


def _cut(text: str, start: int, end: int) -> int:
    """The last good place to cut in the second half of `start` … `end`: before the space between
    two words, else after a line, else at `end`."""
    for border in (_BETWEEN_WORDS, _BETWEEN_LINES):
        found = [place.start() for place in border.finditer(text, (start + end) // 2, end)]
        if found and found[-1] > start:
            return found[-1]
    return end


def _tokenize(engine: Engine, text: str, *, begin: bool) -> list[int]:
    """The tokens of a part, in smaller parts where the engine's context is small."""
    try:
        return list(engine.tokenize(text, begin=begin, control=False))
    except ContextLengthExceeded:
        if len(text) < SHORTEST_PART:
            raise
        head, *rest = _parts(text, (len(text) + 1) // 2)
        tokens = _tokenize(engine, head, begin=begin)
        for part in rest:
            tokens += _continue(engine, part)
        return tokens


def _continue(engine: Engine, part: str) -> list[int]:
    """The tokens of a part that is not the text's first, which some tokenisers would begin with
    a space of their own: it follows a line feed, whose tokens are then taken away."""
    lead = list(engine.tokenize(_LEAD, begin=False, control=False))
    tokens = _tokenize(engine, _LEAD + part, begin=False)
    if tokens[: len(lead)] == lead:
        return tokens[len(lead) :]
    # The line feed became part of another token.
    return _tokenize(engine, part, begin=False)
