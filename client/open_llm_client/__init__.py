"""A client for open-llm-server, over HTTP and gRPC, for threads and for tasks.

    client = open_llm_client.create("http://localhost:5000")
    print(client.chat("Hello, how are you?"))

Importing this opens nothing, and imports no library: the first call does both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from . import errors
from ._answers import ChatAnswer, CompleteAnswer, Delta, EmbedAnswer, Health, Model, Usage
from ._client import TIMEOUT_S, Client
from ._conversation import Conversation
from ._streams import AsyncStream, Stream
from ._version import __version__
from .errors import (
    AuthenticationError,
    BadAnswer,
    BodyTimeout,
    BodyTooLarge,
    ConnectionFailed,
    ConnectionLost,
    ContextLengthExceeded,
    DeadlineExceeded,
    Draining,
    EngineError,
    HostNotAllowed,
    InvalidField,
    InvalidJSON,
    MethodNotAllowed,
    ModelFailed,
    ModelLoading,
    ModelNotFound,
    NotSupported,
    OpenLLMError,
    QueueFull,
    RequestError,
    RouteNotFound,
    RunnerLost,
    TimedOut,
    Unavailable,
    UnsupportedMediaType,
)


def create(
    url: str | None = None,
    *,
    api_key: str | None = None,
    timeout: float = TIMEOUT_S,
    retries: int = 2,
    model: str | None = None,
    verify: bool | str | os.PathLike[str] = True,
    headers: Mapping[str, str] | None = None,
) -> Client:
    """A client for the server at `url`; nothing is opened before the first call.

    `url` is http://, https://, grpc:// or grpcs:// (gRPC over TLS); without one, it is what
    OPEN_LLM_ENDPOINT says, else http://127.0.0.1:5000. `api_key` is what OPEN_LLM_API_KEY says
    unless it is given. `timeout` is in seconds, for each call. `retries` is how often a call is
    tried again where nothing was started. `model` answers calls that name none. `verify` is the
    PEM file of the CA where it is not a public one, or False for no check (https only).
    `headers` go with every request.

    Raises ValueError or TypeError for values that cannot be.
    """
    return Client(
        url,
        api_key=api_key,
        timeout=timeout,
        retries=retries,
        model=model,
        verify=verify,
        headers=headers,
    )


__all__ = [
    "AsyncStream",
    "AuthenticationError",
    "BadAnswer",
    "BodyTimeout",
    "BodyTooLarge",
    "ChatAnswer",
    "Client",
    "CompleteAnswer",
    "ConnectionFailed",
    "ConnectionLost",
    "ContextLengthExceeded",
    "Conversation",
    "DeadlineExceeded",
    "Delta",
    "Draining",
    "EmbedAnswer",
    "EngineError",
    "Health",
    "HostNotAllowed",
    "InvalidField",
    "InvalidJSON",
    "MethodNotAllowed",
    "Model",
    "ModelFailed",
    "ModelLoading",
    "ModelNotFound",
    "NotSupported",
    "OpenLLMError",
    "QueueFull",
    "RequestError",
    "RouteNotFound",
    "RunnerLost",
    "Stream",
    "TimedOut",
    "Unavailable",
    "UnsupportedMediaType",
    "Usage",
    "__version__",
    "create",
    "errors",
]
