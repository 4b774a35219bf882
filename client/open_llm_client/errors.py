"""Every error a caller can meet, as one tree: the server's own, and four of the way to it.

Knows neither HTTP nor gRPC. Names, codes and places are the server's; its tree has more, for
people who start servers.

OpenLLMError                        code                     HTTP  gRPC
├── RequestError                    invalid_request          400   INVALID_ARGUMENT
│   ├── InvalidJSON                 invalid_json             400   INVALID_ARGUMENT
│   ├── InvalidField                invalid_value            400   INVALID_ARGUMENT
│   ├── NotSupported                not_supported            400   INVALID_ARGUMENT
│   ├── ContextLengthExceeded       context_length_exceeded  400   INVALID_ARGUMENT
│   ├── AuthenticationError         invalid_api_key          401   UNAUTHENTICATED
│   ├── HostNotAllowed              host_not_allowed         403   PERMISSION_DENIED
│   ├── RouteNotFound               route_not_found          404   UNIMPLEMENTED
│   ├── ModelNotFound               model_not_found          404   NOT_FOUND
│   ├── MethodNotAllowed            method_not_allowed       405   UNIMPLEMENTED
│   ├── BodyTimeout                 body_timeout             408   DEADLINE_EXCEEDED
│   ├── BodyTooLarge                body_too_large           413   RESOURCE_EXHAUSTED
│   └── UnsupportedMediaType        unsupported_media_type   415   INVALID_ARGUMENT
├── QueueFull                       queue_full               429   RESOURCE_EXHAUSTED
├── Unavailable                     unavailable              503   UNAVAILABLE
│   ├── ModelLoading                model_loading            503   UNAVAILABLE
│   ├── ModelFailed                 model_failed             503   UNAVAILABLE
│   ├── RunnerLost                  runner_lost              503   UNAVAILABLE
│   └── Draining                    draining                 503   UNAVAILABLE
├── DeadlineExceeded                deadline_exceeded        504   DEADLINE_EXCEEDED
├── EngineError                     engine_error             500   INTERNAL
├── ConnectionFailed                connection_failed        (the server cannot be reached)
├── ConnectionLost                  connection_lost          (it broke off within an answer)
├── TimedOut                        timed_out                (the call's own `timeout` is over)
└── BadAnswer                       bad_answer               (what came is no answer of its)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class OpenLLMError(Exception):
    """The root: `str()` of an error says what happened and what to do about it."""

    code: str = "internal_error"
    status: int | None = 500
    """The HTTP status that the server gives this error, over gRPC too; `None`: it gave none."""
    grpc_status: str = "INTERNAL"
    type: str = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        may_repeat: bool = False,
        request_id: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        """The field that is wrong, where one is."""
        self.retry_after = retry_after
        """Seconds after which another try has a chance; `None` where nobody knows."""
        self.may_repeat = may_repeat
        """Whether the same call may succeed later."""
        self.request_id = request_id
        """What the server's log calls the request."""
        self.extra: dict[str, Any] = dict(extra or {})
        """Further facts, such as `n_prompt_tokens` and `n_ctx` of a context that is too short."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, code={self.code!r})"


class RequestError(OpenLLMError):
    """The call asks for something that cannot be; asking again changes nothing."""

    code = "invalid_request"
    status = 400
    grpc_status = "INVALID_ARGUMENT"
    type = "invalid_request_error"


class InvalidJSON(RequestError):
    """The server could not read the request as JSON."""

    code = "invalid_json"


class InvalidField(RequestError):
    """A value is out of bounds; `param` names it."""

    code = "invalid_value"


class NotSupported(RequestError):
    """This model cannot do what was asked."""

    code = "not_supported"


class ContextLengthExceeded(RequestError):
    """The prompt does not fit; `extra` has `n_prompt_tokens` and `n_ctx`."""

    code = "context_length_exceeded"


class AuthenticationError(RequestError):
    """No API key, or not one of this server's."""

    code = "invalid_api_key"
    status = 401
    grpc_status = "UNAUTHENTICATED"
    type = "authentication_error"


class HostNotAllowed(RequestError):
    """The server does not answer under the name that the URL has for it."""

    code = "host_not_allowed"
    status = 403
    grpc_status = "PERMISSION_DENIED"
    type = "permission_error"


class RouteNotFound(RequestError):
    """The server has no such path."""

    code = "route_not_found"
    status = 404
    grpc_status = "UNIMPLEMENTED"


class ModelNotFound(RequestError):
    """No such model there; the message lists the ones there are."""

    code = "model_not_found"
    status = 404
    grpc_status = "NOT_FOUND"


class MethodNotAllowed(RequestError):
    """The path exists, with another HTTP method."""

    code = "method_not_allowed"
    status = 405
    grpc_status = "UNIMPLEMENTED"


class BodyTimeout(RequestError):
    """The request did not arrive in time."""

    code = "body_timeout"
    status = 408
    grpc_status = "DEADLINE_EXCEEDED"
    type = "timeout_error"


class BodyTooLarge(RequestError):
    """The request is over the server's limit."""

    code = "body_too_large"
    status = 413
    grpc_status = "RESOURCE_EXHAUSTED"


class UnsupportedMediaType(RequestError):
    """Something on the way has changed what the request says of its content."""

    code = "unsupported_media_type"
    status = 415


class QueueFull(OpenLLMError):
    """The model's queue has no place left; nothing was started."""

    code = "queue_full"
    status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    type = "rate_limit_error"


class Unavailable(OpenLLMError):
    """Not now; a later try may succeed."""

    code = "unavailable"
    status = 503
    grpc_status = "UNAVAILABLE"


class ModelLoading(Unavailable):
    """The model is still being loaded."""

    code = "model_loading"


class ModelFailed(Unavailable):
    """The model could not be brought into service, and nobody tries again by itself."""

    code = "model_failed"


class RunnerLost(Unavailable):
    """The model's process died or fell silent; it is being replaced."""

    code = "runner_lost"


class Draining(Unavailable):
    """The server is shutting down and takes no new work."""

    code = "draining"


class DeadlineExceeded(OpenLLMError):
    """The server's own limit for one request ran out before the answer was complete."""

    code = "deadline_exceeded"
    status = 504
    grpc_status = "DEADLINE_EXCEEDED"
    type = "timeout_error"


class EngineError(OpenLLMError):
    """The engine failed on this request; the server's log has the details."""

    code = "engine_error"


class ConnectionFailed(OpenLLMError):
    """The server cannot be reached: nothing was sent."""

    code = "connection_failed"
    status = None
    grpc_status = "UNAVAILABLE"
    type = "connection_error"


class ConnectionLost(OpenLLMError):
    """The connection broke after the request was sent and before its answer was complete."""

    code = "connection_lost"
    status = None
    grpc_status = "UNAVAILABLE"
    type = "connection_error"


class TimedOut(OpenLLMError):
    """The call's own `timeout` ran out."""

    code = "timed_out"
    status = None
    grpc_status = "DEADLINE_EXCEEDED"
    type = "timeout_error"


class BadAnswer(OpenLLMError):
    """What came is not an answer of this server: another program, a proxy's page, damage."""

    code = "bad_answer"
    status = None
    type = "bad_answer_error"


def tree(root: type[OpenLLMError] = OpenLLMError) -> Iterator[type[OpenLLMError]]:
    """`root` and every class below it."""
    yield root
    for child in root.__subclasses__():
        yield from tree(child)
