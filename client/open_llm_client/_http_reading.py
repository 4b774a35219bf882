"""Reads one HTTP answer as it comes: status, headers, chunks, end. Pure.

The same for threads and tasks, which only move bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from . import _json_answers, _refusals
from ._answers import Answer, Delta
from ._json_answers import Misshapen
from ._requests import Request
from ._sse import BrokenStream, Event, Parser
from ._transport import MAX_ANSWER
from .errors import BadAnswer, ConnectionLost, OpenLLMError

DONE = "[DONE]"
_EVENTS = "text/event-stream"
_JSON = "application/json"
Header = Callable[[str], str | None]


def _none(name: str) -> None:
    """Before there are headers."""


class Reading:
    """Of the answer to `request` from `url`. Every method raises OpenLLMError only."""

    def __init__(self, request: Request, url: str, request_id: str | None) -> None:
        self._request = request
        self._url = url
        self._request_id = request_id
        self._status = 0
        self._header: Header = _none
        self._whole = bytearray()
        self._events: Parser | None = None
        self._answer: Answer | None = None
        self.opened = False
        """Whether the server has accepted a stream."""
        self.done = False
        """Whether the stream said that it is complete: what comes then is only its end."""

    @property
    def begun(self) -> bool:
        """Whether anything of an answer has come."""
        return self._status != 0

    def head(self, status: int, header: Header) -> None:
        """`header` gives the value of a header by its lower-case name."""
        self._status, self._header = status, header
        self._request_id = header("x-request-id") or self._request_id
        if status < 200 or 300 <= status < 400:
            self._redirected()
        encoding = (header("content-encoding") or "identity").strip().lower()
        if encoding != "identity":
            self._bad(f"it is encoded as {_refusals.plain(encoding)[:40]}, which nobody asked for")
        if (header("content-length") or "").isdecimal() and self._length() > MAX_ANSWER:
            self._too_large()
        if status == 200:
            wanted = _EVENTS if self._request.stream else _JSON
            if self._kind() != wanted:
                self._bad(f"a {self._request.kind} is answered with {wanted}")
            if self._request.stream:
                self._events = Parser(MAX_ANSWER)
                self.opened = True

    def feed(self, chunk: bytes) -> Iterator[Delta]:
        """Takes in a piece of the body; gives what it has for the caller of a stream.

        What came before something wrong is given first.
        """
        if self._events is None:
            if len(self._whole) + len(chunk) > MAX_ANSWER:
                self._too_large()
            self._whole += chunk
            return
        try:
            for event in self._events.feed(chunk):
                if delta := self._event(event):
                    yield delta
        except (BrokenStream, Misshapen) as error:
            self._bad(str(error))

    def end(self) -> Answer:
        """The whole answer, once the body has ended as it should."""
        if self._events is not None:
            if self._answer is None or not self.done:
                raise self.lost("it ended without the last events of an answer")
            return self._answer
        if self._status == 200 or self._is_readiness():
            try:
                return _json_answers.answer(self._request.kind, self._json())
            except Misshapen as error:
                self._bad(str(error))
        raise self._refusal()

    def lost(self, why: str) -> ConnectionLost:
        return ConnectionLost(
            f"the answer of {self._url} broke off: {why}. It was not asked for again by itself; "
            "call once more, and look into the server's log if it happens again",
            request_id=self._request_id,
        )

    def _event(self, event: Event) -> Delta | None:
        if self.done:
            raise Misshapen("it goes on after its end")
        if event.name == "error":
            value = _json_answers.parsed(event.data)
            error = value.get("error") if isinstance(value, dict) else None
            raise _refusals.described(error, otherwise=OpenLLMError, request_id=self._request_id)
        if event.data == DONE:
            if self._answer is None:
                raise Misshapen("it ends without an answer")
            self.done = True
            return None
        value = _json_answers.parsed(event.data)
        if not isinstance(value, dict):
            raise Misshapen("one of its events is no JSON object")
        if self._answer is not None:
            raise Misshapen("it goes on after its answer")
        if "delta" in value:
            return _json_answers.delta(value)
        self._answer = _json_answers.answer(self._request.kind, value)
        return None

    def _refusal(self) -> OpenLLMError:
        """The error that a status other than 200 stands for."""
        error = self._object().get("error")
        if not isinstance(error, dict):
            if self._status not in _refusals.BY_STATUS:
                self._bad("that is no error of this server")
            error = {"message": self._foreign("that is no error of this server")}
        wait_s = _refusals.retry_after(self._header)
        return _refusals.described(
            error,
            otherwise=_refusals.class_of(self._status),
            status=self._status,
            retry_after=wait_s,
            may_repeat=(self._header("x-should-retry") or "").strip().lower() == "true",
            request_id=self._request_id,
        )

    def _is_readiness(self) -> bool:
        """Whether this is `/readyz` saying no, which is an answer."""
        said = self._request.kind == "health" and self._status == 503
        return said and "models" in self._object()

    def _json(self) -> Any:
        return _json_answers.parsed(bytes(self._whole))

    def _object(self) -> dict[str, Any]:
        """The JSON object that came; empty where none did."""
        try:
            value = self._json() if self._kind() == _JSON else None
        except Misshapen:
            value = None
        return value if isinstance(value, dict) else {}

    def _redirected(self) -> NoReturn:
        where = _refusals.plain(self._header("location"))[:200]
        to = f" to {where}" if where else ""
        self._bad(f"it sends on{to}, and keys are not carried elsewhere")

    def _too_large(self) -> NoReturn:
        self._bad(
            f"it has more than {MAX_ANSWER // 1024**2} MiB; ask for less at once (fewer inputs, "
            "fewer tokens)"
        )

    def _bad(self, why: str) -> NoReturn:
        raise BadAnswer(self._foreign(why), request_id=self._request_id)

    def _foreign(self, why: str) -> str:
        kind = _refusals.plain(self._header("content-type"))[:100] or "no content type"
        return (
            f"{self._url} answered with status {self._status} and {kind}, but {why}; is this the "
            "URL of an open-llm-server, and what stands between?"
        )

    def _kind(self) -> str:
        return (self._header("content-type") or "").partition(";")[0].strip().lower()

    def _length(self) -> int:
        digits = self._header("content-length") or "0"
        return int(digits) if len(digits) < 20 else MAX_ANSWER + 1
