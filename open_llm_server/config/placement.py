"""The grammar of devices: `cpu`, `gpu:0`, `gpu:0+1`, `mps`, and `NAME:DEVICE,NAME:DEVICE,…`.

Text in, values out. Knows neither the machine's devices nor its models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import ConfigurationError
from .models import NAME

_KINDS = ("auto", "cpu", "gpu", "cuda", "mps")
_WITH_NUMBERS = ("gpu", "cuda")
_NUMBER = re.compile(r"\d{1,3}", re.ASCII)
GRAMMAR = "want NAME:DEVICE or DEVICE, where DEVICE is cpu, gpu:0, gpu:0+1, mps or auto"


@dataclass(frozen=True)
class Placement:
    """`device` for the model or family `name`; `None`: for all that no other placement names."""

    name: str | None
    device: str

    def __str__(self) -> str:
        return f"{self.name}:{self.device}" if self.name else self.device


def parse_device(text: str) -> str:
    """The canonical spelling of one device: `cuda` is `gpu`, and `gpu` alone is `gpu:0`."""
    kind, colon, numbers = text.strip().lower().partition(":")
    if kind not in _KINDS:
        raise ConfigurationError(f"{text!r} is not a device; {GRAMMAR}")
    if kind not in _WITH_NUMBERS:
        if colon:
            raise ConfigurationError(f"{text!r}: {kind} takes no number")
        return kind
    if not colon:
        return "gpu:0"
    indices = numbers.split("+")
    for index in indices:
        if not _NUMBER.fullmatch(index):
            raise ConfigurationError(
                f"{text!r}: {index!r} is not the number of a GPU; they count from 0: gpu:0, gpu:0+1"
            )
    unique = list(dict.fromkeys(map(int, indices)))
    if len(unique) < len(indices):
        raise ConfigurationError(f"{text!r} names a GPU twice")
    return "gpu:" + "+".join(map(str, unique))


def gpu_indices(device: str) -> tuple[int, ...]:
    """The GPU numbers of a canonical device; none for other kinds."""
    kind, _, numbers = device.partition(":")
    return tuple(map(int, numbers.split("+"))) if kind == "gpu" else ()


def parse_placements(texts: Iterable[str]) -> tuple[Placement, ...]:
    """Reads repeated and comma-joined placements alike; a name, or none, may come once."""
    words = [word.strip() for text in texts for word in text.split(",") if word.strip()]
    placements = tuple(map(_parse_one, words))
    seen: set[str | None] = set()
    for placement in placements:
        if placement.name in seen:
            whom = placement.name or "all models"
            raise ConfigurationError(f"two devices are given for {whom}; one of them must go")
        seen.add(placement.name)
    return placements


def _parse_one(word: str) -> Placement:
    head, colon, rest = word.partition(":")
    if head.lower() in _KINDS:
        return Placement(None, parse_device(word))
    if not colon or not NAME.fullmatch(head):
        raise ConfigurationError(f"{word!r} is not a placement; {GRAMMAR}")
    return Placement(head, parse_device(rest))
