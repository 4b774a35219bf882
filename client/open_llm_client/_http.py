"""The HTTP transport: its halves for threads and for tasks, as one. Knows no bytes."""

from __future__ import annotations

from contextlib import aclosing
from typing import cast

from ._answers import Answer
from ._endpoint import Endpoint
from ._http_setup import Setup
from ._http_tasks import Tasks
from ._http_threads import Threads
from ._transport import AsyncItems, Call, Items


class HttpTransport:
    """Over HTTP/1.1, plain or with TLS."""

    def __init__(self, endpoint: Endpoint) -> None:
        setup = Setup(endpoint)
        self._threads = Threads(setup)
        self._tasks = Tasks(setup)

    def answer(self, call: Call) -> Answer:
        (answer,) = self._threads.items(call)
        return cast(Answer, answer)

    def stream(self, call: Call) -> Items:
        return self._threads.items(call)

    async def async_answer(self, call: Call) -> Answer:
        async with aclosing(self._tasks.items(call)) as items:
            return cast(Answer, await anext(items))

    def async_stream(self, call: Call) -> AsyncItems:
        return self._tasks.items(call)

    def close(self) -> None:
        self._threads.close()

    async def aclose(self) -> None:
        self._threads.close()
        await self._tasks.aclose()
