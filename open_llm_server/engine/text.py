"""Turns the bytes of tokens into text that may go out, one piece at a time. Pure, no I/O.

Owns what is held back: halves of characters, and tails that may still become a stop string.
Knows nothing of tokens, engines or frames: scores travel with their text as opaque items.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..errors import InvalidField


class TextAssembler:
    """The text of one answer, cut before the first stop string.

    The result does not depend on how the bytes were split into pieces: it is what
    `bytes.decode("utf-8", "replace")` gives for all of them together, cut where the first
    complete occurrence of any stop string begins. "First" is the one that ends first, because
    it is complete first; of several that end together the longest counts. So with the stops
    "bc" and "abcd" the text "xabcd" is cut to "xa": waiting for the longer one would delay the
    end of every answer that holds the shorter.
    """

    __slots__ = ("_held", "_items", "_pending", "_released", "_seen", "_state", "_stops", "stopped")

    def __init__(self, stop: Sequence[str] = ()) -> None:
        """Raises InvalidField for an empty stop string, which would end every answer at once."""
        self.stopped = False
        """A stop string was found: all text before it has been returned, nothing follows."""
        self._stops = _stops(tuple(stop)) if stop else None
        self._state = 0
        self._pending = b""  # The beginning of a character whose other bytes have not come.
        self._held = ""  # Decoded text that is the beginning of a stop string.
        self._seen = 0  # Characters decoded, and of these, returned.
        self._released = 0
        self._items: deque[tuple[int, Any]] = deque()

    def push(self, piece: bytes, item: object = None) -> str:
        """Adds one token's bytes and returns the text that may go out now, often "".

        `item` is kept until the last character that `piece` contributed to has been returned;
        then `take_items` gives it back. After a stop string both are ignored.
        """
        if self.stopped:
            return ""
        if self._pending:
            piece = self._pending + piece
        text, used = utf_8_decode(piece, "replace", False)
        self._pending = piece[used:]
        self._seen += len(text)
        if item is not None:
            # Bytes of an unfinished character count as the characters they become if no more
            # follow: one, or two for the beginning of an encoded surrogate.
            unfinished = len(self._pending.decode("utf-8", "replace")) if self._pending else 0
            self._items.append((self._seen + unfinished, item))
        if self._stops is None:
            self._released = self._seen
            return text
        return self._release(text, self._stops)

    def flush(self) -> str:
        """Ends the text: returns what is still held back, an unfinished character as U+FFFD.

        May find a stop string that ends in such a U+FFFD. Nothing may be pushed afterwards.
        """
        if self.stopped:
            return ""
        text, _ = utf_8_decode(self._pending, "replace", True)
        self._pending = b""
        self._seen += len(text)
        if self._stops is not None:
            text = self._release(text, self._stops)
            if self.stopped:
                return text
            text += self._held
            self._held = ""
            self._state = 0
        self._released = self._seen
        return text

    def take_items(self) -> list[Any]:
        """The items, in order, whose text has been returned completely since the last call.

        An item without text (a control token's) comes after the items before it. Items whose
        text a stop string cut off, wholly or partly, never come.
        """
        taken = []
        items = self._items
        while items and items[0][0] <= self._released:
            taken.append(items.popleft()[1])
        if self.stopped:
            items.clear()
        return taken

    def _release(self, text: str, stops: _Stops) -> str:
        """Passes `text` through the automaton; what it cannot rule out stays in `_held`."""
        state = self._state
        if not state and stops.initials.isdisjoint(text):
            self._released = self._seen
            return text
        steps, fallbacks = stops.steps, stops.fallbacks
        for index, char in enumerate(text):
            while state and char not in steps[state]:
                state = fallbacks[state]
            state = steps[state].get(char, 0)
            if stops.matches[state]:
                end = len(self._held) + index + 1
                return self._stop((self._held + text)[: end - stops.matches[state]])
        text = self._held + text
        ready = len(text) - stops.depths[state]
        self._state, self._held = state, text[ready:]
        self._released += ready
        return text[:ready]

    def _stop(self, text: str) -> str:
        self.stopped = True
        self._released += len(text)
        self._held, self._pending = "", b""
        return text


class _Stops:
    """The Aho-Corasick automaton of some stop strings: one look-up a character.

    State 0 has seen nothing of interest. Every other state stands for the longest end of the
    text so far that begins a stop string, which is exactly what must be held back.
    """

    __slots__ = ("depths", "fallbacks", "initials", "matches", "steps")

    def __init__(self, stops: Sequence[str]) -> None:
        self.steps: list[dict[str, int]] = [{}]
        self.depths = [0]
        """Length of the text that the state stands for."""
        self.matches = [0]
        """Length of the longest stop string that ends in the state, 0 without one."""
        self.fallbacks = [0]
        for stop in stops:
            self._insert(stop)
        self.initials = frozenset(self.steps[0])
        self._link()

    def _insert(self, stop: str) -> None:
        state = 0
        for char in stop:
            if char not in self.steps[state]:
                self.steps[state][char] = len(self.steps)
                self.steps.append({})
                self.depths.append(self.depths[state] + 1)
                self.matches.append(0)
                self.fallbacks.append(0)
            state = self.steps[state][char]
        self.matches[state] = len(stop)

    def _link(self) -> None:
        """Breadth first, so that a state's fallback, which is shallower, is complete before it."""
        queue = deque(self.steps[0].values())
        while queue:
            state = queue.popleft()
            for char, target in self.steps[state].items():
                fallback = self.fallbacks[state]
                while fallback and char not in self.steps[fallback]:
                    fallback = self.fallbacks[fallback]
                self.fallbacks[target] = self.steps[fallback].get(char, 0)
                self.matches[target] = self.matches[target] or self.matches[self.fallbacks[target]]
                queue.append(target)


# The choices of one request share one automaton. At the bounds of core.StopSequence one is 1 MB.
@lru_cache(maxsize=16)
def _stops(stops: tuple[str, ...]) -> _Stops:
    if "" in stops:
        raise InvalidField(
            "a stop string is empty; leave it out, or give at least one character",
            param="stop_sequence",
        )
    return _Stops(stops)
