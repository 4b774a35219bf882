"""Tickets that want embeddings, and which of their inputs are computed next. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from .ticket import Ticket

Helping = Sequence[tuple[Ticket, Sequence[int]]]
"""Inputs that are computed in one call, and whose they are."""


class Embeds:
    """For the worker's thread. Requests that arrive together are computed together."""

    def __init__(self) -> None:
        self._tickets: deque[Ticket] = deque()
        self._apart: set[Ticket] = set()

    def __bool__(self) -> bool:
        return bool(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._tickets)

    def add(self, ticket: Ticket) -> None:
        self._tickets.append(ticket)

    def remove(self, ticket: Ticket) -> None:
        self._tickets.remove(ticket)
        self._apart.discard(ticket)

    def helping(self, budget: int) -> Helping:
        """The next inputs: at most `budget` tokens, but one input in any case.

        Tickets take turns, an input each, so that a long list holds nobody up.
        """
        first = self._tickets[0]
        together = [ticket for ticket in self._tickets if ticket not in self._apart]
        turns = deque([first] if first in self._apart else together)
        places = {ticket: len(ticket.vectors) for ticket in turns}
        taken: list[tuple[Ticket, Sequence[int]]] = []
        while turns:
            ticket = turns.popleft()
            tokens = ticket.inputs[places[ticket]]
            if taken and len(tokens) > budget:
                break
            taken.append((ticket, tokens))
            budget -= len(tokens)
            places[ticket] += 1
            if places[ticket] < len(ticket.inputs):
                turns.append(ticket)
        return taken

    def take_in(self, helping: Helping, vectors: Sequence[Sequence[float]]) -> list[Ticket]:
        """Gives the tickets what was computed; those that are complete, and no longer here."""
        for (ticket, _), vector in zip(helping, vectors, strict=True):
            if ticket.left:  # else it was dropped meanwhile
                ticket.vectors.append(tuple(vector))
        complete = []
        for ticket in dict.fromkeys(ticket for ticket, _ in helping if ticket.left):
            ticket.left = len(ticket.inputs) - len(ticket.vectors)
            self._tickets.remove(ticket)
            if ticket.left:
                self._tickets.append(ticket)  # the others get their turn first
            else:
                self._apart.discard(ticket)
                complete.append(ticket)
        return complete

    def separate(self, helping: Helping) -> None:
        """One of these inputs is at fault: each ticket is computed by itself from now on."""
        self._apart.update(ticket for ticket, _ in helping if ticket.left)
