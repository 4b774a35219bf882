"""What a model wants to see at the end of its inputs, beside the caller's own tokens. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .base import Limits


def ended(tokens: Sequence[int], suffix: Sequence[int]) -> list[int]:
    """`tokens` with `suffix` behind them; a part of it that is there already is not repeated.

    Callers who bring token ids may have the whole of it, or what their tokeniser puts there.
    """
    there = len(suffix)
    while there and list(tokens[-there:]) != list(suffix[:there]):
        there -= 1
    return [*tokens, *suffix[there:]]


def input_suffix(limits: Limits) -> tuple[int, ...]:
    """What ends an input to embed: the encoder's part of a prompt's end, without the token that
    a decoder begins with."""
    return limits.prompt_suffix[:-1] if limits.whole_prompt else limits.prompt_suffix
