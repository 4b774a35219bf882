"""A Markov chain over bytes, as an engine: see `open_llm_server.engine.base.Engine`."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate

from open_llm_server.engine.base import Batch, Draw, Limits, Outcome, Row, Score
from open_llm_server.errors import NotSupported

END = 256
"""Ends a sentence, and an answer; tokens 0 to 255 are bytes."""
_RARE = math.log(1e-6)
"""Log-probability of what the text never has at such a place."""


class MarkovEngine:
    """Each byte is chosen by the `order` before it, or by fewer where those were never seen."""

    control_texts: frozenset[str] = frozenset()
    begin_text = ""
    end_text = ""
    chat_template = "{% for message in messages %}{{ message.content }}\n{% endfor %}"

    def __init__(self, corpus: bytes, *, order: int, context_length: int, slots: int) -> None:
        self.limits = Limits(
            context_length=context_length,
            slots=slots,
            batch_tokens=512,
            vocabulary=END + 1,
            end_tokens=frozenset({END}),
        )
        self._order = order
        self._after: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self._held: list[list[int]] = [[] for _ in range(slots)]
        for line in corpus.splitlines():
            sentence = [*b"\n", *line, END]
            for place in range(1, len(sentence)):
                for length in range(min(order, place) + 1):
                    before = tuple(sentence[place - length : place])
                    self._after[before][sentence[place]] += 1

    def tokenize(self, text: str, *, begin: bool, control: bool) -> list[int]:
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        return b"" if token == END else bytes([token])

    def step(self, batch: Batch) -> list[Outcome]:
        for slot, length in batch.trims:
            del self._held[slot][length:]
        for copy in batch.copies:
            self._held[copy.target] = self._held[copy.source][: copy.length]
        return [self._evaluate(row) for row in batch.rows]

    def forget(self, slot: int) -> None:
        self._held[slot].clear()

    def embed(
        self, inputs: Sequence[Sequence[int]], *, between: Callable[[], None] = lambda: None
    ) -> list[list[float]]:
        raise NotSupported("family markov makes no embeddings; ask another model for them")

    def abort(self) -> None:
        """Steps are too short to be broken off."""

    def close(self) -> None:
        self._after.clear()

    def _evaluate(self, row: Row) -> Outcome:
        held = self._held[row.slot]
        targets = []
        for place, token in enumerate(row.tokens):
            held.append(token)
            if place < len(row.targets):
                targets.append(_score(self._likely(held), row.targets[place], row.top))
        if row.draw is None:
            return Outcome(row.slot, targets=targets)
        likely = self._likely(held)
        token = _choose(likely, row.draw, held)
        wanted = row.draw.logprobs
        score = None if wanted is None else _score(likely, token, wanted)
        return Outcome(row.slot, token=token, score=score, targets=targets)

    def _likely(self, held: Sequence[int]) -> Counter[int]:
        """How often each token follows the longest end of `held` that was seen."""
        for length in range(min(self._order, len(held)), -1, -1):
            if found := self._after.get(tuple(held[len(held) - length :])):
                return found
        return Counter({END: 1})


def _choose(likely: Counter[int], draw: Draw, held: Sequence[int]) -> int:
    """Penalties, top_k, top_p, min_p, temperature, and the draw, in this order; the same at the
    same place of the same answer. Bytes that never follow here stay out, whatever is asked."""
    seen, chosen = set(held), Counter(held[len(draw.prompt) :])
    logits = {token: math.log(count / likely.total()) for token, count in likely.items()}
    for token in logits.keys() & seen:
        logits[token] *= draw.repetition_penalty  # none is positive
        if token in chosen:
            logits[token] -= chosen[token] * draw.frequency_penalty + draw.presence_penalty
    kept = sorted(logits, key=lambda token: -logits[token])[: draw.top_k or None]
    if draw.temperature == 0:
        return kept[0]
    below = [logits[token] - logits[kept[0]] for token in kept]
    masses = [math.exp(logit) for logit in below]
    above = accumulate(masses, initial=0.0)
    share = draw.top_p * sum(masses)
    left = sum(
        before < share and mass >= draw.min_p for before, mass in zip(above, masses, strict=False)
    )
    left = max(left, 1)
    weights = [math.exp(logit / draw.temperature) for logit in below[:left]]
    drawn = random.Random(draw.seed * 1_000_003 + len(held))
    return drawn.choices(kept[:left], weights)[0]


def _score(likely: Counter[int], token: int, top: int) -> Score:
    total = likely.total()
    logprobs = {one: math.log(count / total) for one, count in likely.most_common()}
    return Score(token, logprobs.get(token, _RARE), list(logprobs.items())[:top])
