"""Every error a caller can meet, as one tree. Words only: no I/O, no formats.

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
└── StartError                      start_error              (the command line; exit code 1)
    ├── ConfigurationError          configuration            (exit code 2; also a ValueError)
    ├── InsufficientMemory          insufficient_memory      (a model does not fit its device)
    └── WeightsError                weights                  (a model's file is not usable)
        ├── InsufficientSpace       insufficient_space       (the disk is too full for it)
        ├── DamagedDownload         damaged_download         (the hub has other bytes than it lists)
        └── HubUnavailable          hub_unavailable          (exit code 75: try again later)

Each message says what happened and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar


class OpenLLMError(Exception):
    """The root. `extra` holds further facts for machines, as JSON values."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    type: ClassVar[str] = "server_error"
    passes: ClassVar[bool] = False
    """Whether the cause goes away by itself, so that a client may repeat the same request."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        """Seconds after which another try has a chance; `None` where waiting does not help."""
        self.extra: dict[str, Any] = extra

    @property
    def may_repeat(self) -> bool:
        """Whether the same request may succeed later."""
        return self.passes or self.retry_after is not None

    def body(self) -> dict[str, Any]:
        """The `error` object that HTTP routes answer with (OpenAI's shape)."""
        shape: dict[str, Any] = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return shape | self.extra

    def frame(self) -> dict[str, Any]:
        """The same, as it travels from a runner; `from_frame` reads it back."""
        return {
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "retry_after": self.retry_after,
            "extra": self.extra,
        }


class RequestError(OpenLLMError):
    """The caller asked for something that cannot be; asking again changes nothing."""

    code = "invalid_request"
    status = 400
    grpc_status = "INVALID_ARGUMENT"
    type = "invalid_request_error"


class InvalidJSON(RequestError):
    """The body is not JSON, or not JSON that means one thing."""

    code = "invalid_json"


class InvalidField(RequestError):
    """A field has the wrong type or is out of bounds; `param` names it."""

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
    """The `Host` or `Origin` header names somebody else's site."""

    code = "host_not_allowed"
    status = 403
    grpc_status = "PERMISSION_DENIED"
    type = "permission_error"


class RouteNotFound(RequestError):
    """No such path."""

    code = "route_not_found"
    status = 404
    grpc_status = "UNIMPLEMENTED"


class ModelNotFound(RequestError):
    """No such model here; the message lists the ones there are."""

    code = "model_not_found"
    status = 404
    grpc_status = "NOT_FOUND"


class MethodNotAllowed(RequestError):
    """The path exists, with another HTTP method."""

    code = "method_not_allowed"
    status = 405
    grpc_status = "UNIMPLEMENTED"


class BodyTimeout(RequestError):
    """The body did not arrive in time."""

    code = "body_timeout"
    status = 408
    grpc_status = "DEADLINE_EXCEEDED"
    type = "timeout_error"
    passes = True


class BodyTooLarge(RequestError):
    """The body is over the server's limit."""

    code = "body_too_large"
    status = 413
    grpc_status = "RESOURCE_EXHAUSTED"


class UnsupportedMediaType(RequestError):
    """The body is not declared as JSON."""

    code = "unsupported_media_type"
    status = 415


class QueueFull(OpenLLMError):
    """The model's queue has no place left; nothing was started."""

    code = "queue_full"
    status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    type = "rate_limit_error"
    passes = True


class Unavailable(OpenLLMError):
    """Not now; a later try may succeed."""

    code = "unavailable"
    status = 503
    grpc_status = "UNAVAILABLE"
    passes = True


class ModelLoading(Unavailable):
    """The model is still being loaded."""

    code = "model_loading"


class ModelFailed(Unavailable):
    """The model could not be brought into service, and nobody tries again by itself."""

    code = "model_failed"
    passes = False


class RunnerLost(Unavailable):
    """The model's process died or fell silent; it is being replaced."""

    code = "runner_lost"


class Draining(Unavailable):
    """The server is shutting down and takes no new work."""

    code = "draining"


class DeadlineExceeded(OpenLLMError):
    """The request's time ran out before its answer was complete; again, it would take as long."""

    code = "deadline_exceeded"
    status = 504
    grpc_status = "DEADLINE_EXCEEDED"
    type = "timeout_error"


class EngineError(OpenLLMError):
    """The engine failed on this request; the server's log has the details."""

    code = "engine_error"


class StartError(OpenLLMError):
    """The server cannot start; the command line prints the message and leaves."""

    code = "start_error"
    exit_code: ClassVar[int] = 1


class ConfigurationError(StartError, ValueError):
    """A value, name, flag or variable of the configuration is wrong."""

    code = "configuration"
    exit_code = 2


class WeightsError(StartError):
    """A model's file is missing, damaged, or of a kind that is not loaded."""

    code = "weights"


class InsufficientMemory(StartError):
    """A model needs more memory than its device has free; `extra` has `needed` and `available`."""

    code = "insufficient_memory"


class InsufficientSpace(WeightsError):
    """The file system is too full for an import; `extra` has `needed` and `available`, in bytes."""

    code = "insufficient_space"


class DamagedDownload(WeightsError):
    """What a hub sends is not what it lists, and was not at a second try either."""

    code = "damaged_download"


class HubUnavailable(WeightsError):
    """The hub did not answer, or broke off; nothing is wrong with what was asked of it."""

    code = "hub_unavailable"
    exit_code = 75  # EX_TEMPFAIL of sysexits.h
    passes = True


def tree(root: type[OpenLLMError] = OpenLLMError) -> Iterator[type[OpenLLMError]]:
    """`root` and every class below it."""
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def from_frame(frame: Mapping[str, Any]) -> OpenLLMError:
    """The error that a runner's `error` frame describes; an unknown code stays an EngineError."""
    by_code = {error.code: error for error in tree()}
    kind = by_code.get(str(frame.get("code")), EngineError)
    return kind(
        str(frame.get("message", "the model's process reported an error without words")),
        param=frame.get("param"),
        retry_after=frame.get("retry_after"),
        **dict(frame.get("extra") or {}),
    )
