"""How bytes, times and progress are said. Pure: values in, words out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .store.progress import Progress

BYTES = frozenset({"downloading", "copying", "checking", "converting"})
"""Phases that count bytes."""
PARTS = frozenset({"quantising"})
"""Phases that count what tells nobody anything but its share; the others count steps."""


def size(count: float) -> str:
    """Bytes for people: `999 B`, `1.2 kB`, `18 MB`, `4.9 GB`."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 9.95:
            return f"{count:.1f} {unit}"
        if count < 999.5:
            break
    return f"{count:.0f} {unit}"


def duration(seconds: float) -> str:
    """Time for people: `42 s`, `3 min`, `2.5 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Figures:
    """What can be said of one moment; what is not known is empty."""

    share: str
    amount: str
    total: str
    rate: str
    left: str

    @classmethod
    def of(cls, progress: Progress) -> Figures:
        moves_bytes = progress.phase in BYTES
        say = size if moves_bytes else str
        done, total = progress.done, progress.total
        amount = say(done) if total is None else f"{say(done)} of {say(total)}"
        if progress.phase in PARTS or (total is None and not done):
            amount = ""
        return cls(
            share="" if total is None else f"{_percent(done, total)}%",
            amount=amount,
            total="" if total is None else say(total),
            rate=f"{size(progress.rate)}/s" if progress.rate and moves_bytes else "",
            left="" if progress.eta_s is None else f"{duration(progress.eta_s)} left",
        )


def _percent(done: int, total: int) -> int:
    return min(100, 100 * done // total) if total else 100


def printable(text: str) -> str:
    """Without what would act on a terminal: names of files are not ours."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
