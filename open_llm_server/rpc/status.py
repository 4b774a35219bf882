"""Errors as gRPC says them: a status, and details by the rules of google.rpc.

Knows the error tree and nothing of calls.
"""

from __future__ import annotations

import json
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from ..errors import OpenLLMError

DOMAIN = "open-llm-server"
DETAILS = "grpc-status-details-bin"
LONGEST_MESSAGE = 1500
"""Bytes of a message. It travels twice, each byte as up to three: clients take 8 KiB of headers."""
LONGEST_FACT = 500
"""Characters of a fact's JSON; a longer one is left out."""


def code_of(error: OpenLLMError) -> grpc.StatusCode:
    code: grpc.StatusCode = getattr(grpc.StatusCode, error.grpc_status)
    return code


def details_of(error: OpenLLMError, *, id: str) -> bytes:
    """The value of `grpc-status-details-bin`. Facts besides the code are JSON in its metadata."""
    facts: dict[str, Any] = {
        "type": error.type,
        "param": error.param,
        "request_id": id,
        "may_repeat": error.may_repeat,
        **error.extra,
    }
    texts = {name: json.dumps(value) for name, value in facts.items() if value is not None}
    info = ErrorInfo(
        reason=error.code.upper(),
        domain=DOMAIN,
        metadata={name: text for name, text in texts.items() if len(text) <= LONGEST_FACT},
    )
    details: list[Message] = [info]
    if error.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(int(max(error.retry_after, 0.0) * 1e9))
        details.append(RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        one = Packed()
        one.Pack(detail)
        packed.append(one)
    status = Status(code=code_of(error).value[0], message=message_of(error), details=packed)
    serialized: bytes = status.SerializeToString()
    return serialized


def message_of(error: OpenLLMError) -> str:
    """What both ends can carry: never half a character, nor a lone surrogate."""
    return error.message.encode("utf-8", "replace")[:LONGEST_MESSAGE].decode("utf-8", "ignore")
