"""What a check of the machine is told, and what it answers: a case, and findings about it.

Words only: looks at nothing. The checks are `doctor_*`; `doctor` runs them.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .errors import OpenLLMError
from .registry import load_family

if TYPE_CHECKING:
    from .config.resolved import ModelPlan, Resolved

BUILT_IN = "tiny"
"""The model that is looked at where none is named."""

Level = Literal["ok", "note", "warning", "problem"]
"""A problem stops `start`; a warning makes it worse than it could be; a note is worth knowing."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    subject: str
    says: str
    """What is so."""
    do: str = ""
    """What to do about it, if anything."""

    @classmethod
    def of(
        cls, subject: str, error: OpenLLMError, level: Level = "problem", *, do: str = ""
    ) -> Finding:
        """A refusal of the server's own; its way out stands after "run:", the first ";", or in its
        second sentence, else it is `do`."""
        message = " ".join(error.message.split())
        message = message.removeprefix("flag ").removeprefix(f"{subject}: ")
        says, found, way_out = message.rpartition("; run: ")
        for border in ("; ", ". "):
            if not found:
                says, found, way_out = message.partition(border)
        return cls(level, subject, says, way_out or do)


@dataclass(frozen=True)
class Case:
    """What `start` would be given."""

    words: tuple[str, ...] = ()
    """The models as they were named; none: those of the configuration."""
    resolved: Resolved | None = None
    """`None`: the configuration was refused, and `fault` says why."""
    fault: OpenLLMError | None = None
    assumed: bool = False
    """Whether nobody named a model, so that the built-in one is looked at."""
    network: bool = False
    """Whether the network may be touched."""

    @property
    def plans(self) -> tuple[ModelPlan, ...]:
        return self.resolved.models if self.resolved else ()

    @property
    def command(self) -> str:
        """What a person would type."""
        return " ".join(("start", *self.words))

    def on(self, engine: str) -> list[ModelPlan]:
        """The models that `engine` computes."""
        return [plan for plan in self.plans if engine_of(plan) == engine]


def left_out(subject: str) -> Finding:
    """What cannot be looked at, for nobody knows what `start` would be given."""
    return Finding("note", subject, "not looked at until the configuration is right")


def way_out_of(error: OSError) -> str:
    """What helps a check, or a child of it, that could not even begin; empty: not known."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "allow this process more open files: `ulimit -n 4096`, or LimitNOFILE= of systemd"
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        return "end other programs, or allow this user more processes: `ulimit -u`"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room for temporary files, or set TMPDIR to a folder that has some"
    return ""


def engine_of(plan: ModelPlan) -> str:
    """What computes a model; empty where its family cannot be loaded."""
    try:
        return load_family(plan).engine_of(plan.config)
    except OpenLLMError:
        return ""


def joined(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
