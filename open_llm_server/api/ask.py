"""What every wire format turns a body into, and what it needs to turn frames into an answer.

The seam between formats and the flow of a request: a format is one function from bytes to Ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..core import ChatRequest, CompletionRequest, EmbedRequest
from ..errors import EngineError, OpenLLMError
from ..frames import Delta, End
from ..gather import Choice, Gathered

DONE = "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Signature:
    """What an answer says about where it came from. `model` is the name the caller used."""

    id: str
    created: int
    model: str
    fingerprint: str


class Writer(Protocol):
    """Writes one answer as server-sent events. Each method returns whole events, or nothing."""

    def opening(self) -> str: ...

    def delta(self, delta: Delta) -> str: ...

    def ending(self, end: End) -> str: ...


def _same(param: str) -> str:
    return param


@dataclass(frozen=True, slots=True)
class Ask:
    """One understood request."""

    request: ChatRequest | CompletionRequest | EmbedRequest
    model: str | None
    whole: Callable[[Gathered, Signature], Any]
    """The answer in one piece, as JSON values."""
    writer: Callable[[Signature], Writer] | None = None
    """Set when the caller asked for a stream."""
    ignored: tuple[str, ...] = ()
    """Names of fields that were sent and that nobody reads."""
    rename: Callable[[str], str] = field(default=_same)
    """From a model's name of a field to the one that the caller sent."""

    @contextmanager
    def renaming(self) -> Iterator[None]:
        """Errors of the model name fields as the caller does."""
        try:
            yield
        except OpenLLMError as error:
            if error.param is not None:
                error.param = self.rename(error.param)
            raise

    def choices(self, gathered: Gathered) -> tuple[Choice, ...]:
        """All texts of the answer; one that is missing is an error, not a shorter list."""
        request = self.request
        prompts = len(request.prompts) if isinstance(request, CompletionRequest) else 1
        wanted = prompts * (1 if isinstance(request, EmbedRequest) else request.n)
        if len(gathered.choices) != wanted:
            raise EngineError(
                f"the model's process gave {len(gathered.choices)} texts instead of {wanted}"
            )
        return gathered.choices


def renamer(old: str, new: str, *, single: bool = False) -> Callable[[str], str]:
    """Maps `old` and what is below it to `new`; with `single`, item 0 is the field itself."""
    head = f"{old}.0" if single else old

    def rename(param: str) -> str:
        if param == head or param.startswith(f"{head}."):
            return new + param.removeprefix(head)
        return param

    return rename
