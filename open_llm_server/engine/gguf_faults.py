"""Which values of a GGUF file's metadata llama.cpp would trip over. Pure: values in, words out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from .gguf_format import ELEMENTS, EPSILON, MOST, POSITIVE, TEXTS, TYPE_NAMES, Array, Scalar

Metadata = Mapping[str, Scalar | Array]


def faults(metadata: Metadata) -> Iterator[str]:
    """What is wrong, one sentence each."""
    if not metadata.get("split.no") and not metadata.get("general.architecture"):
        yield "it names no architecture (general.architecture)"
    for key in TEXTS:
        if key in metadata and not isinstance(metadata[key], str):
            yield f"{key} is not a text"
    yield from _vocabulary_faults(metadata)
    for key, value in metadata.items():
        if not isinstance(value, Array) and key.endswith((*POSITIVE, *MOST)):
            yield from _number_faults(key, value)
        if isinstance(value, float) and not _is_sound(key, value):
            yield f"{key} is {value!r}"
    yield from _expert_faults(metadata)


def _vocabulary_faults(metadata: Metadata) -> Iterator[str]:
    for key, element in ELEMENTS.items():
        value = metadata.get(key)
        if value is not None and (
            not isinstance(value, Array) or value.element != TYPE_NAMES[element]
        ):
            yield f"{key} is not an array of {TYPE_NAMES[element]}"
    counts = {
        value.count
        for key in ("tokens", "scores", "token_type")
        if isinstance(value := metadata.get(f"tokenizer.ggml.{key}"), Array)
    }
    if len(counts) > 1:
        yield "its vocabulary's tokens, scores and types differ in number"


def _number_faults(key: str, value: Scalar) -> Iterator[str]:
    least = 1 if key.endswith(POSITIVE) else 0
    most = next((MOST[name] for name in MOST if key.endswith(name)), 2**31 - 1)
    if not isinstance(value, int) or not least <= value <= most:
        yield f"{key} is {value!r}"


def _is_sound(key: str, value: float) -> bool:
    """llama.cpp asserts that what it adds to a divisor is a number, and not below 0."""
    return 0 <= value < math.inf if key.endswith(EPSILON) else not math.isnan(value)


def _expert_faults(metadata: Metadata) -> Iterator[str]:
    architecture = metadata.get("general.architecture")
    experts = metadata.get(f"{architecture}.expert_count", 0)
    used = metadata.get(f"{architecture}.expert_used_count", 0)
    if isinstance(used, int) and isinstance(experts, int) and not 0 <= used <= experts:
        yield f"it uses {used} of {experts} experts"
