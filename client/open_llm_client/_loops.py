"""One of something for each event loop, closed when its loop ends. Knows no protocol.

Connections belong to the loop that opened them. `asyncio.run` closes the async generators that are
still open before it closes the loop, so a generator holds what is to be closed with it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class PerLoop(Generic[T]):
    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._kept: dict[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None, None]]] = {}

    async def get(self) -> T:
        """The running loop's; made at the first call."""
        import asyncio

        loop = asyncio.get_running_loop()
        if loop not in self._kept:
            for other in [*self._kept]:
                if other.is_closed():
                    self._kept.pop(other, None)
            value = self._make()
            keeper = self._keep(loop, value)
            self._kept[loop] = value, keeper
            await keeper.__anext__()
        return self._kept[loop][0]

    async def aclose(self) -> None:
        """Closes the running loop's; those of other loops end with them."""
        import asyncio

        kept = self._kept.get(asyncio.get_running_loop())
        if kept:
            await kept[1].aclose()

    async def _keep(self, loop: asyncio.AbstractEventLoop, value: T) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._kept.pop(loop, None)
            await self._close(value)
