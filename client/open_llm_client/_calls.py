"""From a request to its answer, through a transport, with its tries. Knows no wire format."""

from __future__ import annotations

from typing import Any

from . import _deadline, _requests
from ._answers import Answer
from ._endpoint import Endpoint
from ._requests import Request
from ._retry import async_tried, tried
from ._streams import AsyncStream, Ended, Stream, nobody
from ._transport import AsyncItems, Call, Items, Transport


class Calls:
    """How calls to one endpoint are made."""

    def __init__(self, endpoint: Endpoint, *, timeout: float, retries: int) -> None:
        self._endpoint = endpoint
        self._timeout = _deadline.checked_timeout(timeout)
        self._retries = retries
        self._opened: Transport | None = None
        self._closed = False

    def run(self, request: Request, timeout: float | None, request_id: str | None) -> Any:
        call, transport = self._begin(request, timeout, request_id)

        def attempt() -> Answer:
            return transport.answer(call)

        return tried(attempt, call.deadline, self._retries)

    def stream(
        self,
        request: Request,
        timeout: float | None,
        request_id: str | None,
        ended: Ended = nobody,
    ) -> Stream[Any]:
        """Returns once the server has accepted the request."""
        call, transport = self._begin(request, timeout, request_id)

        def attempt() -> Items:
            items = transport.stream(call)
            next(items)
            return items

        return Stream(tried(attempt, call.deadline, self._retries), call, ended)

    async def async_run(
        self, request: Request, timeout: float | None, request_id: str | None
    ) -> Any:
        call, transport = self._begin(request, timeout, request_id)

        async def attempt() -> Answer:
            return await transport.async_answer(call)

        return await async_tried(attempt, call.deadline, self._retries)

    async def async_stream(
        self,
        request: Request,
        timeout: float | None,
        request_id: str | None,
        ended: Ended = nobody,
    ) -> AsyncStream[Any]:
        call, transport = self._begin(request, timeout, request_id)

        async def attempt() -> AsyncItems:
            items = transport.async_stream(call)
            await anext(items)
            return items

        items = await async_tried(attempt, call.deadline, self._retries)
        return AsyncStream(items, call, ended)

    def close(self) -> None:
        self._closed = True
        if self._opened is not None:
            self._opened.close()

    async def aclose(self) -> None:
        self._closed = True
        if self._opened is not None:
            await self._opened.aclose()

    def _begin(
        self, request: Request, timeout: float | None, request_id: str | None
    ) -> tuple[Call, Transport]:
        if self._closed:
            raise RuntimeError("this client is closed; make another with open_llm_client.create()")
        call = Call(
            request,
            timeout=self._timeout if timeout is None else _deadline.checked_timeout(timeout),
            request_id=_requests.checked_request_id(request_id),
        )
        if self._opened is None:
            self._opened = self._transport()
        return call, self._opened

    def _transport(self) -> Transport:
        # The libraries under them take time to import.
        if self._endpoint.scheme in ("http", "https"):
            from ._http import HttpTransport

            return HttpTransport(self._endpoint)
        from ._grpc import GrpcTransport

        return GrpcTransport(self._endpoint)
