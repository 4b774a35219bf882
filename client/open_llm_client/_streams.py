"""An answer while it is made: for threads and for tasks. Knows no transport and no wire format."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from . import _transport
from ._answers import ChatAnswer, CompleteAnswer, Delta, Usage
from ._transport import AsyncItems, Call, Items
from .errors import BadAnswer

if TYPE_CHECKING:
    import asyncio

A = TypeVar("A", ChatAnswer, CompleteAnswer)
Ended = Callable[[Any], None]
"""Told once: the whole answer, or `None` where there is none."""


def nobody(answer: Any) -> None:
    pass


class _Progress(Generic[A]):
    """What has come so far."""

    def __init__(self, call: Call, ended: Ended) -> None:
        self._call = call
        self._ended: Ended | None = ended
        self._texts: dict[int, list[str]] = {}
        self._size = 0
        self._answer: A | None = None

    @property
    def text(self) -> str:
        """What has come of the first choice so far."""
        return "".join(self._texts.get(0, ()))

    @property
    def texts(self) -> list[str]:
        """What has come of each choice so far."""
        most = max(self._texts, default=-1)
        return ["".join(self._texts.get(index, ())) for index in range(most + 1)]

    @property
    def answer(self) -> A:
        """The whole answer. Raises RuntimeError before the stream has been read to its end."""
        if self._answer is None:
            raise RuntimeError(
                "the answer is not complete; read the stream to its end first, or take .text"
            )
        return self._answer

    @property
    def message(self) -> str:
        """The whole text; of several choices, the first."""
        return self.choices[0]

    @property
    def choices(self) -> list[str]:
        """The whole texts of all choices."""
        whole: ChatAnswer | CompleteAnswer = self.answer
        return [whole.message] if isinstance(whole, ChatAnswer) else whole.choices

    @property
    def usage(self) -> Usage:
        return self.answer.usage

    @property
    def configuration(self) -> dict[str, Any]:
        return self.answer.configuration

    def _take(self, item: Any) -> Delta | None:
        """A delta for the caller; `None` once the answer is whole."""
        if not isinstance(item, Delta):
            self._answer = cast(A, item)
            self._tell()
            return None
        self._size += len(item.text)
        if self._size > _transport.MAX_ANSWER or item.index >= _transport.MAX_CHOICES:
            raise BadAnswer(
                f"the stream has more than {_transport.MAX_ANSWER // 1024**2} Mi characters or "
                f"{_transport.MAX_CHOICES} choices; ask for less with a smaller max_tokens",
                request_id=self._call.request_id,
            )
        self._texts.setdefault(item.index, []).append(item.text)
        return item

    def _tell(self) -> None:
        ended, self._ended = self._ended, None
        if ended:
            ended(self._answer)

    def __repr__(self) -> str:
        state = "complete" if self._answer is not None else "open" if self._ended else "closed"
        return f"{type(self).__name__}({self._call.request.kind}, {state}, text={self.text[:60]!r})"


class _Cut(Exception):
    """The wait for a delta was ended by `aclose`."""


class Stream(_Progress[A]):
    """An iterator of deltas: each has `.text` and `.index`, and `str()` of it is its text.

    `close()`, also from another thread, the end of a `with` block and the garbage collector cancel
    what has not come yet, on the server too.
    """

    def __init__(self, items: Items, call: Call, ended: Ended = nobody) -> None:
        super().__init__(call, ended)
        self._items = items
        self._closed = False

    def __iter__(self) -> Stream[A]:
        return self

    def __next__(self) -> Delta:
        """Raises OpenLLMError where the answer fails."""
        if self._closed or self._answer is not None:
            raise StopIteration
        try:
            delta = self._take(next(self._items))
            if delta is not None:
                return delta
            self._items.close()
        except BaseException as error:
            if self._closed and isinstance(error, Exception):
                raise StopIteration from None
            self.close()
            raise
        raise StopIteration

    def close(self) -> None:
        self._closed = True
        cut = self._call.cut
        try:
            self._items.close()
        except ValueError:  # another thread is waiting in it
            if cut:
                cut()
        self._tell()

    def __enter__(self) -> Stream[A]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Without a start there is nothing to end.
        with contextlib.suppress(AttributeError):
            self.close()


class AsyncStream(_Progress[A]):
    """The same for tasks: `async for`, `async with`, `await stream.aclose()`, also from another
    task of the same event loop.
    """

    def __init__(self, items: AsyncItems, call: Call, ended: Ended = nobody) -> None:
        super().__init__(call, ended)
        self._items = items
        self._closed = False
        self._reader: asyncio.Task[Any] | None = None
        """Who waits for the next delta."""
        self._is_cut = False
        """Whether that wait was ended by `aclose`."""

    def __aiter__(self) -> AsyncStream[A]:
        return self

    async def __anext__(self) -> Delta:
        """Raises OpenLLMError where the answer fails."""
        if self._closed or self._answer is not None:
            raise StopAsyncIteration
        if self._reader is not None:
            raise RuntimeError("another task reads this stream; read it in one task only")
        try:
            delta = self._take(await self._next())
            if delta is not None and not self._closed:
                return delta
            await self._items.aclose()
        except BaseException as error:
            closed = self._closed and isinstance(error, Exception)
            await self.aclose()
            if closed:
                raise StopAsyncIteration from None
            raise
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._closed = True
        try:
            if self._reader is None:
                await self._items.aclose()
            elif not self._is_cut:
                self._is_cut = True
                self._reader.cancel()
        finally:
            self._tell()

    async def _next(self) -> Any:
        """The next item. Raises _Cut when `aclose` was called meanwhile."""
        import asyncio

        reader = self._reader = cast("asyncio.Task[Any]", asyncio.current_task())
        before = reader.cancelling() if hasattr(reader, "cancelling") else 0
        try:
            return await anext(self._items)
        except asyncio.CancelledError:
            # Somebody else may have cancelled the task too; that must not be swallowed.
            if not self._is_cut or (hasattr(reader, "uncancel") and reader.uncancel() > before):
                raise
            raise _Cut from None
        finally:
            self._reader = None

    async def __aenter__(self) -> AsyncStream[A]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # The event loop closes the generator, and with it the connection.
        with contextlib.suppress(AttributeError):
            self._tell()
