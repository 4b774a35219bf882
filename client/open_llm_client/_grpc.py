"""The gRPC transport: channels and calls, for threads and for tasks. Knows no message's fields."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import grpc
    import grpc.aio

    from . import _grpc_errors, _grpc_messages
except ImportError as missing:
    raise ImportError(
        f"grpc:// needs packages that are not here ({missing.name}): "
        "pip install 'open-llm-client[grpc]'"
    ) from None

from ._answers import Answer, Model
from ._endpoint import CA_VARIABLE, Endpoint, no_authorities
from ._json_answers import Misshapen
from ._loops import PerLoop
from ._requests import Request
from ._transport import CONNECT_S, MAX_ANSWER, AsyncItems, Call, Items
from ._version import __version__
from .errors import AuthenticationError, BadAnswer, ConnectionLost

SERVICE = "/open_llm.v1.OpenLLM"
HEALTH = "/grpc.health.v1.Health/Check"
_METHODS = {"chat": "Chat", "complete": "Complete", "embed": "Embed", "models": "ListModels"}
_METADATA = 64 * 1024
_ID = "x-request-id"
"""Comes ahead of a stream's first message, once the request is accepted: refusals have it last."""
_MODELS = Request("models", {})


class GrpcTransport:
    """Over one HTTP/2 connection for all threads, and one for each event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        self._target = f"{host}:{endpoint.port}"
        self._options = _options(loopback=endpoint.loopback)
        self._lock = threading.Lock()
        self._channel: Any = None
        self._is_closed = False
        self._aio: PerLoop[Any] = PerLoop(lambda: self._open(grpc.aio), _close)

    def answer(self, call: Call) -> Answer:
        with self._failures(call):
            if call.request.kind == "health":
                serving = _grpc_messages.is_serving(self._ask(call, HEALTH, b""))
                return _grpc_messages.health(serving, self._known_models(call))
            return _grpc_messages.answer(call.request, self._ask(call, *_asked(call.request)))

    def stream(self, call: Call) -> Items:
        path, data = _asked(call.request)
        gathering = _grpc_messages.Gathering(call.request)
        rpc = self._opened().unary_stream(path)(data, **self._arguments(call))
        call.cut = rpc.cancel
        try:
            with self._failures(call):
                accepted = _ID in dict(rpc.initial_metadata() or ())
                if accepted:
                    yield None
                for message in rpc:
                    delta = gathering.take(message)
                    if gathering.begun and not accepted:
                        accepted = True
                        yield None
                    if delta:
                        yield delta
        finally:
            call.cut = None
            rpc.cancel()
        yield self._whole(call, gathering)

    async def async_answer(self, call: Call) -> Answer:
        with self._failures(call):
            if call.request.kind == "health":
                serving = _grpc_messages.is_serving(await self._async_ask(call, HEALTH, b""))
                return _grpc_messages.health(serving, await self._async_known_models(call))
            data = await self._async_ask(call, *_asked(call.request))
            return _grpc_messages.answer(call.request, data)

    async def async_stream(self, call: Call) -> AsyncItems:
        path, data = _asked(call.request)
        gathering = _grpc_messages.Gathering(call.request)
        channel = await self._aio.get()
        rpc = channel.unary_stream(path)(data, **self._arguments(call))
        try:
            with self._failures(call):
                accepted = _ID in dict(await rpc.initial_metadata() or ())
                if accepted:
                    yield None
                async for message in rpc:
                    delta = gathering.take(message)
                    if gathering.begun and not accepted:
                        accepted = True
                        yield None
                    if delta:
                        yield delta
        finally:
            rpc.cancel()
        yield self._whole(call, gathering)

    def close(self) -> None:
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    async def aclose(self) -> None:
        self._is_closed = True
        self.close()
        await self._aio.aclose()

    def _ask(self, call: Call, path: str, data: bytes) -> bytes:
        answer: bytes = self._opened().unary_unary(path)(data, **self._arguments(call))
        return answer

    async def _async_ask(self, call: Call, path: str, data: bytes) -> bytes:
        channel = await self._aio.get()
        answer: bytes = await channel.unary_unary(path)(data, **self._arguments(call))
        return answer

    def _known_models(self, call: Call) -> list[Model]:
        """None without a key: health needs none, and the list does."""
        try:
            with self._failures(call):
                return _grpc_messages.models(self._ask(call, *_asked(_MODELS)))
        except AuthenticationError:
            return []

    async def _async_known_models(self, call: Call) -> list[Model]:
        try:
            with self._failures(call):
                return _grpc_messages.models(await self._async_ask(call, *_asked(_MODELS)))
        except AuthenticationError:
            return []

    @contextmanager
    def _failures(self, call: Call) -> Iterator[None]:
        """Turns what goes wrong into errors of ours."""
        try:
            yield
        except asyncio.CancelledError:
            # The library says this too where its channel was closed, and nobody cancelled a task.
            if not self._is_closed or _is_cancelled(asyncio.current_task()):
                raise
            raise _grpc_errors.closed_meanwhile(call, self._endpoint) from None
        except grpc.RpcError as error:
            raise _grpc_errors.explained(error, call, self._endpoint) from None
        except Misshapen as error:
            raise BadAnswer(
                f"{self._endpoint.url} sent what is no answer to a {call.request.kind}: {error}; "
                "is this the URL of an open-llm-server's gRPC port?",
                request_id=call.request_id,
            ) from None

    def _whole(self, call: Call, gathering: _grpc_messages.Gathering) -> Answer:
        if gathering.answer is None:
            raise ConnectionLost(
                f"the stream of {self._endpoint.url} ended without the end of its answer. It was "
                "not asked for again by itself; call once more",
                request_id=call.request_id,
            )
        return gathering.answer

    def _arguments(self, call: Call) -> dict[str, Any]:
        metadata = [*self._endpoint.headers.items()]
        if call.request_id:
            metadata.append((_ID, call.request_id))
        return {"timeout": call.deadline.left(), "metadata": metadata}

    def _opened(self) -> Any:
        with self._lock:
            if self._channel is None:
                self._channel = self._open(grpc)
            return self._channel

    def _open(self, library: Any) -> Any:
        """A channel of `grpc` or of `grpc.aio`; it connects at its first call."""
        if self._endpoint.scheme == "grpc":
            return library.insecure_channel(self._target, options=self._options)
        return library.secure_channel(self._target, self._credentials(), options=self._options)

    def _credentials(self) -> grpc.ChannelCredentials:
        verify = self._endpoint.verify
        # The library has a variable of its own, and does not look at the one that others do.
        file = verify if isinstance(verify, str) else os.environ.get(CA_VARIABLE)
        try:
            roots = Path(file).read_bytes() if file else None
        except OSError as error:
            raise no_authorities(verify, error) from None
        return grpc.ssl_channel_credentials(root_certificates=roots)


def _is_cancelled(task: asyncio.Task[Any] | None) -> bool:
    """Where Python counts it."""
    return task is not None and hasattr(task, "cancelling") and task.cancelling() > 0


async def _close(channel: Any) -> None:
    await channel.close()


def _asked(request: Request) -> tuple[str, bytes]:
    method = _METHODS[request.kind] + ("Stream" if request.stream else "")
    return f"{SERVICE}/{method}", _grpc_messages.written(request)


def _options(*, loopback: bool) -> list[tuple[str, Any]]:
    return [
        ("grpc.primary_user_agent", f"open-llm-client/{__version__}"),
        ("grpc.max_receive_message_length", MAX_ANSWER),
        ("grpc.max_send_message_length", -1),  # the server has a limit
        # An error's text comes twice, spelt out in ASCII.
        ("grpc.max_metadata_size", _METADATA),
        ("grpc.absolute_max_metadata_size", _METADATA),
        ("grpc.min_reconnect_backoff_ms", int(CONNECT_S * 1000)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.enable_retries", 0),  # the client's own rules are stricter
        ("grpc.enable_http_proxy", 0 if loopback else 1),
        # Clients with other keys must not share a connection, nor its end.
        ("grpc.use_local_subchannel_pool", 1),
    ]
