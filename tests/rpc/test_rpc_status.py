"""Errors as statuses with details, and back as any client of gRPC reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st
from ports import EchoPort
from rpc_calls import serving

from open_llm_server.errors import EngineError, OpenLLMError, QueueFull, tree
from open_llm_server.frames import Failure
from open_llm_server.rpc.status import DETAILS, LONGEST_MESSAGE, code_of, details_of, message_of

HEADERS = 8 * 1024
"""Bytes of headers that every client takes."""


@dataclass(frozen=True)
class Ended:
    """What `rpc_status.from_call` wants of a call."""

    error: OpenLLMError

    def code(self) -> grpc.StatusCode:
        return code_of(self.error)

    def details(self) -> str:
        return message_of(self.error)

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return ((DETAILS, details_of(self.error, id="id-7")),)


def unpacked(error: OpenLLMError) -> tuple[ErrorInfo, list[float]]:
    ended: Any = Ended(error)
    status = rpc_status.from_call(ended)
    assert status is not None
    info, wait = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(info)
    waits = [wait.retry_delay.ToNanoseconds() for one in status.details[1:] if one.Unpack(wait)]
    return info, [nanoseconds / 1e9 for nanoseconds in waits]


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_every_error_travels(kind: type[OpenLLMError]) -> None:
    error = kind("what happened; what to do", param="messages.0", retry_after=2.5, n_ctx=16)
    info, waits = unpacked(error)
    assert code_of(error).name == kind.grpc_status
    assert (info.reason, info.domain) == (kind.code.upper(), "open-llm-server")
    assert {name: json.loads(text) for name, text in info.metadata.items()} == {
        "type": kind.type,
        "param": "messages.0",
        "request_id": "id-7",
        "may_repeat": True,
        "n_ctx": 16,
    }
    assert waits == [2.5]


def test_what_is_not_known_is_left_out() -> None:
    info, waits = unpacked(EngineError("broken"))
    assert "param" not in info.metadata
    assert info.metadata["may_repeat"] == "false"
    assert waits == []


@pytest.mark.parametrize(("seconds", "told"), [(0.0, 0.0), (-1.0, 0.0), (0.25, 0.25), (1e6, 1e6)])
def test_how_long_to_wait(seconds: float, told: float) -> None:
    assert unpacked(QueueFull("full", retry_after=seconds))[1] == [told]


@given(st.text(), st.text(max_size=200), st.recursive(st.none() | st.text(), st.lists))
def test_no_message_and_no_fact_is_too_much(message: str, param: str, fact: Any) -> None:
    long = EngineError(message * 100, param=param, fact=fact)
    shown = message_of(long)
    assert len(shown.encode()) <= LONGEST_MESSAGE
    # As gRPC writes them into headers: percent signs, and base 64.
    size = 3 * len(shown.encode()) + 4 * len(details_of(long, id="x" * 128)) / 3
    assert size < HEADERS
    unpacked(long)


MESSAGES = [
    "a line\nand another\r\n\tand a tab",
    "\0 and \x1b[31m",
    "😀" * 3000,
    "é" * 3000,
    "x" * 100_000,
    "%41 100% %",
    " spaces ",
    "half of a pair: \ud83d",
    "",
]


@pytest.mark.parametrize("message", MESSAGES, ids=range(len(MESSAGES)))
async def test_no_message_breaks_a_call(message: str) -> None:
    error = QueueFull(message, retry_after=3.2)
    async with serving(EchoPort(frames=[Failure(error.frame())])) as wire:
        for name in ("Chat", "ChatStream"):
            refusal = await wire.refusal(name)
            assert (refusal.code, refusal.retry_after_s) == ("queue_full", 3.2)
            assert refusal.message == message_of(error)
