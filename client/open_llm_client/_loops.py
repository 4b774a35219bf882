"""One of something for each event loop, closed when its loop ends. Knows no protocol.

Connections belong to the loop that opened them. `asyncio.run` closes the async generators that are
still open before it closes the loop, so a generator holds what is to be closed with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
Keeper = AsyncGenerator[None, None]
_keepers: dict[object, Keeper] = {}
"""The garbage collector must not take connections before they are closed."""


class PerLoop(Generic[T]):
    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._kept: dict[asyncio.AbstractEventLoop, tuple[T, object]] = {}
        """What each loop has, and the name of its keeper."""

    async def get(self) -> T:
        """The running loop's; made at the first call."""
        import asyncio

        loop = asyncio.get_running_loop()
        if loop not in self._kept or self._kept[loop][1] not in _keepers:
            for other in [*self._kept]:
                if other.is_closed():
                    _keepers.pop(self._kept.pop(other)[1], None)
            value, name = self._make(), object()
            self._kept[loop] = value, name
            _keepers[name] = _keep(name, value, self._close)
            await _keepers[name].__anext__()
        return self._kept[loop][0]

    async def aclose(self) -> None:
        """Closes the running loop's; those of other loops end with them."""
        import asyncio

        _, name = self._kept.pop(asyncio.get_running_loop(), (None, None))
        if name in _keepers:
            await _keepers[name].aclose()

    def __del__(self) -> None:
        # Nobody closed them: their loops do, as soon as they can.
        for loop, (_, name) in self._kept.items():
            if loop.is_closed():
                _keepers.pop(name, None)
            elif name in _keepers:
                with contextlib.suppress(RuntimeError):  # closed by another thread, just now
                    loop.call_soon_threadsafe(_close_soon, loop, _keepers[name])


async def _keep(name: object, value: T, close: Callable[[T], Awaitable[None]]) -> Keeper:
    """Has no way back to who asked for it, which may go away earlier."""
    try:
        yield
    finally:
        _keepers.pop(name, None)
        await close(value)


def _close_soon(loop: asyncio.AbstractEventLoop, keeper: Keeper) -> None:
    task = loop.create_task(_closed(keeper))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


async def _closed(keeper: Keeper) -> None:
    await keeper.aclose()


_closing: set[asyncio.Task[None]] = set()
"""The loop itself holds no task that waits."""
