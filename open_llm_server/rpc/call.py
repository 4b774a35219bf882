"""The edge of every call: request id, key, deadline, the one error shape, log and metrics.

What `api.edge` is over HTTP. Knows no method's meaning.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from ..api.auth import identify
from ..api.desk import Desk
from ..api.exchange import ClientGone
from ..api.visit import Visit, request_id
from ..errors import DeadlineExceeded, EngineError, OpenLLMError
from .status import DETAILS, code_of, details_of, message_of

log = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]
ID = "x-request-id"


class Call(Visit):
    """A visit over gRPC."""

    def __init__(self, context: Context, path: str, *, known: bool) -> None:
        super().__init__(method="RPC", path=path)
        if known:
            self.route = path
        self.context = context
        self._code: grpc.StatusCode | None = None
        shown = self.metadata(ID)
        self.id = request_id(shown[0].decode("latin-1") if shown else None)

    @property
    def outcome(self) -> str:
        return (self._code or grpc.StatusCode.CANCELLED).name

    def metadata(self, name: str) -> list[bytes]:
        """All values that were sent under `name`."""
        return metadata(self.context.invocation_metadata() or (), name)

    def timeout_s(self, limit_s: float) -> float:
        """Seconds that the answer may take: the client's deadline, or the server's own limit."""
        left: float | None = self.context.time_remaining()
        return limit_s if left is None else min(limit_s, max(left, 0.001))

    def done(self) -> None:
        self._code = grpc.StatusCode.OK

    def left(self) -> None:
        """Nobody waits for the answer any more."""
        left_s: float | None = self.context.time_remaining()
        if left_s is not None and left_s <= 0:
            self.reason, self._code = DeadlineExceeded.code, grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            self.reason = "client_gone"

    async def refuse(self, error: OpenLLMError) -> None:
        """Ends the call with an error: nothing runs after it."""
        self.reason, self._code = error.code, code_of(error)
        await self.context.abort(
            self._code,
            message_of(error),
            ((ID, self.id), (DETAILS, details_of(error, id=self.id))),
        )


@asynccontextmanager
async def edge(
    desk: Desk, context: Context, path: str, *, known: bool = True
) -> AsyncIterator[Call]:
    """Around the whole of one call. Paths that are not `known` are not counted by name."""
    call = Call(context, path, known=known)
    try:
        call.caller = caller_of(desk, call.metadata("authorization"), call.metadata("x-api-key"))
        context.set_trailing_metadata(((ID, call.id),))
        yield call
        call.done()
    except asyncio.CancelledError:
        call.left()
        raise
    except ClientGone:
        call.reason = "client_gone"
        await context.abort(grpc.StatusCode.CANCELLED, "the client did not read its answer")
    except OpenLLMError as error:
        await call.refuse(error)
    except Exception:
        log.exception("request %s failed in an unexpected way", call.id)
        await call.refuse(
            EngineError(
                "the server failed on this request; its log has the details under this request's id"
            )
        )
    finally:
        call.log(desk.metrics.finish(call))


def caller_of(desk: Desk, authorization: Sequence[bytes], x_api_key: Sequence[bytes]) -> str:
    """Raises AuthenticationError or InvalidField."""
    return identify(authorization, x_api_key, desk.settings.api_key_hashes)


def metadata(pairs: Any, name: str) -> list[bytes]:
    return [
        value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
        for key, value in pairs
        if key == name
    ]
