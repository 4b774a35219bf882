"""Server-sent events from bytes, however they are cut. Pure; knows no meaning of events.

Lines end with LF, CR or CRLF. Comments, ids and retry times are passed over.
"""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    name: str
    data: str


class BrokenStream(ValueError):
    """The bytes are no server-sent events, or too many; the text says which."""


class Parser:
    """`limit`: bytes that one event may have, its names included."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._line = bytearray()
        """What has come of a line that has not ended."""
        self._after_cr = False
        self._first = True
        self._name = ""
        self._data = bytearray()
        """With a line feed after each line."""

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that are complete now. Raises BrokenStream."""
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")  # the second half of CRLF
        if not chunk:
            return []
        events: list[Event] = []
        lines = chunk.splitlines(keepends=True)
        for line in lines:
            self._line += line
            if len(self._line) + len(self._data) > self._limit:
                raise BrokenStream(f"one of its events has more than {self._limit} bytes")
            if line.endswith((b"\n", b"\r")):
                whole = bytes(self._line.rstrip(b"\r\n"))
                self._line.clear()
                if event := self._take(whole):
                    events.append(event)
        self._after_cr = lines[-1].endswith(b"\r")
        return events

    def _take(self, line: bytes) -> Event | None:
        if self._first:
            self._first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data += value + b"\n"
        elif field == b"event":
            self._name = _text(value)
        return None

    def _dispatch(self) -> Event | None:
        name, data = self._name, bytes(self._data)
        self._name, self._data = "", bytearray()
        return Event(name, _text(data[:-1])) if data else None


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BrokenStream("its text is not UTF-8") from None
