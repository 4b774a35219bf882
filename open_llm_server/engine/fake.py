"""A deterministic engine for tests, demos and smoke runs: no weights, answers at once.

It counts in words, from a number that depends on everything its slot holds, so a prefix that was
mixed up shows as a wrong answer. It can be told to be slow, to fail, to hang, and to
kill its process.
"""

from __future__ import annotations

import math
import os
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .base import Aborted, Batch, Limits, Outcome, Row, Score

_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen
"""
WORDS = _WORDS.split()
END = 256
FIRST_WORD = 257
VOCABULARY = FIRST_WORD + len(WORDS)
DIMENSION = 16
CONTROL = {"<end>": END}


@dataclass(frozen=True)
class Faults:
    """What goes wrong, and when. Times in seconds."""

    step_s: float = 0.0
    """How long each step takes."""
    load_s: float = 0.0
    """How long loading takes."""
    fail_on: str = ""
    """A step that meets this text raises, as a broken engine would."""
    crash_on: str = ""
    """A step that meets this text kills the process, as a native crash would."""
    hang_on: str = ""
    """A step that meets this text never returns, not even when it is aborted."""


class FakeEngine:
    """Token ids 0 to 255 are bytes, 256 ends an answer, the rest are words."""

    def __init__(
        self,
        *,
        context_length: int = 4096,
        slots: int = 16,
        batch_tokens: int = 512,
        reply_tokens: int = 16,
        faults: Faults = Faults(),
    ) -> None:
        time.sleep(faults.load_s)
        self.limits = Limits(
            context_length=context_length,
            slots=slots,
            batch_tokens=batch_tokens,
            vocabulary=VOCABULARY,
            end_tokens=frozenset({END}),
            embedding_size=DIMENSION,
        )
        self.control_texts = frozenset(CONTROL)
        self.begin_text = ""
        self.end_text = "<end>"
        self.chat_template: str | None = None
        self.evaluated_tokens = 0
        self._reply_tokens = reply_tokens
        self._faults = faults
        self._held: list[list[int]] = [[] for _ in range(slots)]
        self._aborted = threading.Event()

    def tokenize(self, text: str, *, begin: bool, control: bool) -> list[int]:
        if control and "<end>" in text:
            head, *rest = text.split("<end>")
            tokens = list(head.encode())
            for part in rest:
                tokens += [END, *part.encode()]
            return tokens
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        if token < 256:
            return bytes([token])
        return b"" if token == END else b" " + WORDS[token - FIRST_WORD].encode()

    def step(self, batch: Batch) -> list[Outcome]:
        for slot, length in batch.trims:
            del self._held[slot][length:]
        for copy in batch.copies:
            self._held[copy.target] = self._held[copy.source][: copy.length]
        self._suffer(batch.rows)
        return [self._evaluate(row) for row in batch.rows]

    def forget(self, slot: int) -> None:
        self._held[slot].clear()

    def embed(
        self, inputs: Sequence[Sequence[int]], *, between: Callable[[], None] = lambda: None
    ) -> list[list[float]]:
        vectors = []
        for tokens in inputs:
            between()
            vectors.append(self._vector(tokens))
        return vectors

    def abort(self) -> None:
        self._aborted.set()

    def close(self) -> None:
        self._held.clear()

    def _suffer(self, rows: Sequence[Row]) -> None:
        faults = self._faults
        if rows and (faults.fail_on or faults.crash_on or faults.hang_on):
            text = b"\n".join(self._text(row) for row in rows)
            if faults.crash_on and faults.crash_on.encode() in text:
                os.abort()
            if faults.fail_on and faults.fail_on.encode() in text:
                raise RuntimeError("the fake engine was told to fail on this text")
            if faults.hang_on and faults.hang_on.encode() in text:
                threading.Event().wait()
        if rows and faults.step_s:
            self._aborted.clear()
            if self._aborted.wait(faults.step_s):
                raise Aborted

    def _text(self, row: Row) -> bytes:
        tokens = [*self._held[row.slot], *row.tokens]
        return bytes(token for token in tokens if token < 256)

    def _evaluate(self, row: Row) -> Outcome:
        held = self._held[row.slot]
        if len(held) != row.start:
            raise AssertionError(f"slot {row.slot} holds {len(held)} tokens, not {row.start}")
        self.evaluated_tokens += len(row.tokens)
        targets: list[Score] = []
        for position, token in enumerate(row.tokens):
            held.append(token)
            if position < len(row.targets):
                targets.append(_score(_likeliest(held), row.targets[position], row.top))
        if row.draw is None:
            return Outcome(row.slot, targets=targets)
        answered = len(held) - len(row.draw.prompt)
        likeliest = END if answered >= self._reply_tokens else _likeliest(held)
        score = None
        if row.draw.logprobs is not None:
            score = _score(likeliest, likeliest, row.draw.logprobs)
        return Outcome(row.slot, token=likeliest, score=score, targets=targets)

    @staticmethod
    def _vector(tokens: Sequence[int]) -> list[float]:
        counts = [0.0] * DIMENSION
        for token in tokens:
            counts[token % DIMENSION] += 1.0
        length = math.sqrt(sum(count * count for count in counts)) or 1.0
        return [count / length for count in counts]


def _likeliest(held: Sequence[int]) -> int:
    """After a word the next one; after a prompt one that depends on all of it."""
    last = held[-1]
    if last >= FIRST_WORD:
        return FIRST_WORD + (last - FIRST_WORD + 1) % len(WORDS)
    text = b"".join(token.to_bytes(4, "little") for token in held)
    return FIRST_WORD + zlib.crc32(text) % len(WORDS)


def _score(likeliest: int, token: int, top: int) -> Score:
    """The likeliest token has half of the mass, all others share the rest alike."""
    rest = math.log(0.5 / (VOCABULARY - 1))
    best = [(likeliest, math.log(0.5))]
    others = [(other, rest) for other in range(VOCABULARY) if other != likeliest]
    return Score(token, math.log(0.5) if token == likeliest else rest, (best + others)[:top])
