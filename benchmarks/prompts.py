"""Prompts of a wanted length for the random-weight model, the same for everyone in a round."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .models import BENCH, NUM_BYTES, NUM_CONTROL, SPACE, pieces

PROMPT_TOKENS = 41
PREFIX_TOKENS = 490
SUFFIX_TOKENS = 20
NEW_TOKENS = 64
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}


@dataclass(frozen=True)
class Prompt:
    """A text, and its tokens with the begin token in front."""

    text: str
    tokens: tuple[int, ...]
    seed: int


class Prompts:
    """Draws prompts from the model's own words, each of which is one token."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        words = pieces(BENCH.vocabulary - NUM_CONTROL - NUM_BYTES)
        self._words = [
            (NUM_CONTROL + NUM_BYTES + place, word)
            for place, word in enumerate(words)
            if word[0] == SPACE and len(word) >= 4
        ]

    def prompt(self, tokens: int = PROMPT_TOKENS, prefix: Prompt | None = None) -> Prompt:
        """`tokens` in all, or `tokens` more after `prefix`."""
        chosen = self._random.choices(self._words, k=tokens - (prefix is None))
        text = "".join(word for _, word in chosen).replace(SPACE, " ")
        ids = tuple(token for token, _ in chosen)
        seed = self._random.randrange(2**31)
        if prefix:
            return Prompt(prefix.text + text, prefix.tokens + ids, seed)
        # The tokenizer puts the first space there itself.
        return Prompt(text.removeprefix(" "), (1, *ids), seed)

    def prompts(self, count: int) -> list[Prompt]:
        return [self.prompt() for _ in range(count)]

    def sharing(self, count: int) -> list[Prompt]:
        """Prompts that begin with the same PREFIX_TOKENS tokens."""
        prefix = self.prompt(PREFIX_TOKENS)
        return [self.prompt(SUFFIX_TOKENS, prefix) for _ in range(count)]
