"""From the end of a call that failed to the error it stands for. Pure.

The server's own errors come as google.rpc details; a status without them was made by the library
or by something in between.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from . import _refusals, errors
from ._endpoint import VERIFY, Endpoint
from ._proxies import proxy_of
from ._transport import Call

DETAILS = "grpc-status-details-bin"
ID = "x-request-id"
_CODES: Mapping[grpc.StatusCode, type[errors.OpenLLMError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.RequestError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.RequestError,
    grpc.StatusCode.OUT_OF_RANGE: errors.RequestError,
    grpc.StatusCode.NOT_FOUND: errors.RequestError,
    grpc.StatusCode.PERMISSION_DENIED: errors.RequestError,
    grpc.StatusCode.UNAUTHENTICATED: errors.AuthenticationError,
    grpc.StatusCode.UNIMPLEMENTED: errors.RouteNotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.QueueFull,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
}
_UNKNOWN_NAME = (
    *("dns resolution failed", "name resolution"),
    *("errors resolving", "address lookup failed"),
)
_UNREACHED = ("failed to connect", "connection refused", *_UNKNOWN_NAME)
_UNTRUSTED = ("certificate_verify_failed", "hostname verification", "peer name")
_OTHERS = (
    *("handshake", "ssl", "tls", "alpn"),
    *("http/2", "http1", "http status", "socket closed", "connection reset"),
)
"""Of a connection that was made, and whose other end speaks something else."""
CLOSED = "channel closed"
_NEAR_S = 0.05
"""The server knows the deadline too, and may be the first to say that it has passed."""


def explained(error: Any, call: Call, endpoint: Endpoint) -> errors.OpenLLMError:
    """What a `grpc.RpcError` means to who called."""
    code: grpc.StatusCode = error.code()
    text = _refusals.plain(error.details())[:2000]
    trailing = dict(_pairs(error.trailing_metadata))
    late = code is grpc.StatusCode.DEADLINE_EXCEEDED
    if late and call.deadline.left() < _NEAR_S:
        return call.deadline.error(endpoint.url)
    told = _described(code, text, trailing, call.request_id)
    return told or _by_status(code, text, call, endpoint)


def _described(
    code: grpc.StatusCode, text: str, trailing: Mapping[str, Any], request_id: str | None
) -> errors.OpenLLMError | None:
    details = trailing.get(DETAILS)
    if not isinstance(details, bytes):
        return None
    info, wait = ErrorInfo(), RetryInfo()
    try:
        status = Status.FromString(details)
        known = [detail.Unpack(info) or detail.Unpack(wait) for detail in status.details]
    except DecodeError:
        return None
    if not any(known):
        return None
    facts = {name: _value(value) for name, value in info.metadata.items()}
    may_repeat = facts.pop("may_repeat", False) is True
    return _refusals.described(
        {**facts, "message": status.message or text, "code": info.reason.lower()},
        otherwise=_CODES.get(code, errors.OpenLLMError),
        retry_after=_seconds(wait),
        may_repeat=may_repeat,
        request_id=_text(trailing.get(ID)) or request_id,
    )


def _by_status(
    code: grpc.StatusCode, text: str, call: Call, endpoint: Endpoint
) -> errors.OpenLLMError:
    said = f"{endpoint.url} ({code.name}: {text})"
    if "larger than max" in text.lower():
        return _too_large(text, said, call)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return _unavailable(text.lower(), said, call, endpoint)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # A full queue of the server has details; these are limits of what lies under it.
        return errors.OpenLLMError(
            f"{said} has too little room for this call; send fewer or shorter headers if it "
            "speaks of metadata, else fewer calls at once",
            request_id=call.request_id,
        )
    kind = _CODES.get(code)
    if kind is None:
        return errors.BadAnswer(
            f"{said} does not answer as an open-llm-server does; is this the URL of its gRPC port?",
            request_id=call.request_id,
        )
    return kind(
        f"{said} refused the call without further words; is this the URL of an open-llm-server, "
        "and of no older version than this client?",
        request_id=call.request_id,
    )


def _unavailable(text: str, said: str, call: Call, endpoint: Endpoint) -> errors.OpenLLMError:
    if CLOSED in text:
        return closed_meanwhile(call, endpoint)
    if not any(words in text for words in _UNREACHED):
        return errors.ConnectionLost(
            f"the call to {said} broke off. It was not repeated by itself; call once more, and "
            "look into the server's log if it happens again",
            request_id=call.request_id,
        )
    if endpoint.scheme == "grpcs" and any(words in text for words in _UNTRUSTED):
        return errors.ConnectionFailed(
            f"no safe connection to {said}; give the PEM file of the CA that signed its "
            f"certificate ({VERIFY})"
        )
    reached = text.partition("last error")[2]
    if any(words in reached for words in _OTHERS):
        return errors.ConnectionFailed(f"no connection to {said}; {endpoint.right_scheme}")
    proxy = proxy_of(endpoint)
    way = f"; does {proxy} run, and may it be used" if proxy else ""
    named = not any(words in text for words in _UNKNOWN_NAME)
    return errors.ConnectionFailed(
        f"cannot reach {said}{way}; {endpoint.how_to_reach}", may_repeat=named
    )


def closed_meanwhile(call: Call, endpoint: Endpoint) -> errors.ConnectionLost:
    """Whoever closed the client did it while this call was waiting."""
    return errors.ConnectionLost(
        f"the client of {endpoint.url} was closed before the answer was complete; close it once "
        "its calls and streams are over",
        request_id=call.request_id,
    )


def _too_large(text: str, said: str, call: Call) -> errors.OpenLLMError:
    if text.upper().startswith("SERVER"):
        return errors.BodyTooLarge(
            f"the request is larger than {said} takes; send less at once",
            request_id=call.request_id,
        )
    return errors.BadAnswer(
        f"the answer of {said} is too large; ask for less at once (fewer inputs, fewer tokens)",
        request_id=call.request_id,
    )


def _pairs(metadata: Callable[[], Iterable[tuple[str, Any]] | None]) -> list[tuple[str, Any]]:
    return [(pair[0], pair[1]) for pair in metadata() or ()]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _seconds(wait: RetryInfo) -> float | None:
    if not wait.HasField("retry_delay"):
        return None
    seconds: float = wait.retry_delay.seconds + wait.retry_delay.nanos / 1e9
    return max(seconds, 0.0)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value or ""
