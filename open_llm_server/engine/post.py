"""Updates on their way from the worker's thread to the event loops that wait for them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from ..errors import OpenLLMError
from .ticket import Ticket, Update

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Letter:
    updates: list[Update] = field(default_factory=list)
    over: bool = False
    error: OpenLLMError | None = None


class Post:
    """Collects what a step brought for each ticket, then wakes each event loop once."""

    def __init__(self) -> None:
        self._letters: dict[Ticket, _Letter] = {}

    def put(self, ticket: Ticket, update: Update) -> None:
        self._letters.setdefault(ticket, _Letter()).updates.append(update)

    def close(self, ticket: Ticket, error: OpenLLMError | None = None) -> None:
        """Nothing follows for `ticket`; with an `error` it did not end well."""
        letter = self._letters.setdefault(ticket, _Letter())
        letter.over, letter.error = True, error

    def deliver(self) -> None:
        if not self._letters:
            return
        letters, self._letters = self._letters, {}
        loops: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, _Letter]]] = {}
        for ticket, letter in letters.items():
            loops.setdefault(ticket.loop, []).append((ticket, letter))
        for loop, theirs in loops.items():
            try:
                loop.call_soon_threadsafe(_hand_out, theirs)
            except RuntimeError:  # the loop is closed: nobody reads any more
                log.debug("a request's event loop was closed before its answer was complete")


def _hand_out(letters: list[tuple[Ticket, _Letter]]) -> None:
    for ticket, letter in letters:
        ticket.deliver(letter.updates, letter.over, letter.error)
