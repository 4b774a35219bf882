"""gRPC servers that say the wrong thing, or break off: a clear error, and never a hang."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hostile_servers import ARGUMENTS, CHAT, WAYS, always, ask, http, streamed, talking_to
from open_llm_client import (
    BadAnswer,
    BodyTooLarge,
    Client,
    ConnectionFailed,
    ConnectionLost,
    DeadlineExceeded,
    OpenLLMError,
    QueueFull,
    RouteNotFound,
    TimedOut,
    _v1,
    create,
)

Behave = Callable[[bytes, grpc.ServicerContext], Any]
DETAILS = "grpc-status-details-bin"
USAGE = _v1.Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
STOP = _v1.FINISH_REASON_STOP
START = _v1.ChatStreamResponse(start=_v1.StreamStart(id="abc", model="one"))
DELTA = _v1.ChatStreamResponse(delta=_v1.StreamDelta(text="Hello"))
END = _v1.ChatStreamResponse(end=_v1.StreamEnd(finish_reasons=[STOP], usage=USAGE))
WHOLE = _v1.ChatResponse(id="abc", model="one", message="Hello", finish_reason=STOP, usage=USAGE)
pytestmark = pytest.mark.parametrize("way", WAYS)


class _Handler(grpc.GenericRpcHandler):
    _handler: Any

    def __init__(self, behave: Behave, stream: bool) -> None:
        make = (
            grpc.unary_stream_rpc_method_handler if stream else grpc.unary_unary_rpc_method_handler
        )
        self._handler = make(behave)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._handler


@contextlib.contextmanager
def serving(behave: Behave, *, stream: bool = False, **options: Any) -> Iterator[Client]:
    """A client of a gRPC server whose every method is `behave`."""
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[_Handler(behave, stream)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with create(f"grpc://127.0.0.1:{port}", **{"retries": 0, **options}) as client:
            yield client
    finally:
        server.stop(0).wait()


def giving(*messages: Any) -> Behave:
    def behave(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for message in messages:
            yield message if isinstance(message, bytes) else message.SerializeToString()

    return behave


def refusing(code: grpc.StatusCode, text: str, details: bytes | None = None) -> Behave:
    def behave(data: bytes, context: grpc.ServicerContext) -> Any:
        if details is not None:
            context.set_trailing_metadata(((DETAILS, details),))
        context.abort(code, text)

    return behave


def detailed(code: grpc.StatusCode, *, wait_s: float | None = None, **facts: Any) -> bytes:
    packed = [Packed()]
    reason = facts.pop("reason", "QUEUE_FULL")
    told = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in facts.items()
    }
    packed[0].Pack(ErrorInfo(reason=reason, domain="open-llm-server", metadata=told))
    if wait_s is not None:
        wait = RetryInfo()
        wait.retry_delay.FromNanoseconds(int(wait_s * 1e9))
        packed.append(Packed())
        packed[1].Pack(wait)
    status = Status(code=code.value[0], message="the queue is full", details=packed)
    data: bytes = status.SerializeToString()
    return data


def test_an_answer_and_a_stream(way: str) -> None:
    with serving(lambda data, context: WHOLE.SerializeToString()) as client:
        assert str(ask(way, client, "chat")) == "Hello"
    with serving(giving(START, DELTA, DELTA, END), stream=True) as client:
        deltas, stream = streamed(way, client, "chat")
        assert [*map(str, deltas)] == ["Hello", "Hello"] and stream.message == "HelloHello"
    newer = _v1.ChatStreamResponse.FromString(b"\xa2\x06\x02hi")  # a field that nobody knows yet
    with serving(giving(newer, START, newer, DELTA, END), stream=True) as client:
        assert streamed(way, client, "chat")[1].message == "Hello"


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\x02\xff\xfe", b"hello", b"\x0a\x05a"])
@pytest.mark.parametrize("call", ARGUMENTS)
def test_bytes_that_are_no_message(way: str, call: str, data: bytes) -> None:
    with serving(lambda request, context: data) as client, pytest.raises(BadAnswer, match="grpc"):
        ask(way, client, call)


@pytest.mark.parametrize("call", ["chat", "complete"])
def test_empty_messages(way: str, call: str) -> None:
    with serving(lambda request, context: b"") as client, pytest.raises(BadAnswer):
        ask(way, client, call)


def test_vectors_of_other_lengths(way: str) -> None:
    vectors = [_v1.Vector(values=[0.5])]
    message = _v1.EmbedResponse(id="abc", model="one", dimension=2, embeddings=vectors)
    with serving(lambda request, context: message.SerializeToString()) as client:
        with pytest.raises(BadAnswer, match="dimension"):
            ask(way, client, "embed")


@pytest.mark.parametrize(
    "messages",
    [
        [DELTA, END],
        [START, START, END],
        [START, END, END],
        [START, END, DELTA],
        [START, DELTA, b"\xff\xff"],
        [START, _v1.ChatStreamResponse(end=_v1.StreamEnd())],
        [START, _v1.ChatStreamResponse(delta=_v1.StreamDelta(text="a", index=-1)), END],
        [START, _v1.ChatStreamResponse(delta=_v1.StreamDelta(text="a", index=2)), END],
    ],
)
def test_streams_that_are_none(way: str, messages: list[Any]) -> None:
    with serving(giving(*messages), stream=True) as client, pytest.raises(BadAnswer):
        streamed(way, client, "chat")


@pytest.mark.parametrize("messages", [[], [START], [START, DELTA]])
def test_streams_without_an_end(way: str, messages: list[Any]) -> None:
    with serving(giving(*messages), stream=True) as client:
        with pytest.raises(ConnectionLost, match="call once more"):
            streamed(way, client, "chat")


def test_answers_that_are_too_large(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_llm_client._grpc.MAX_ANSWER", 1000)
    with serving(lambda request, context: b"a" * 5000) as client:
        with pytest.raises(BadAnswer, match="too large"):
            ask(way, client, "chat")
    with serving(giving(START, b"a" * 5000), stream=True) as client:
        with pytest.raises(BadAnswer, match="too large"):
            streamed(way, client, "chat")


def test_endless_text_is_cut(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_llm_client._transport.MAX_ANSWER", 10_000)
    sent = [START, *[DELTA] * 10_000, END]
    with serving(giving(*sent), stream=True) as client:
        with pytest.raises(BadAnswer, match="max_tokens"):
            streamed(way, client, "chat")


def test_requests_that_are_too_large(way: str) -> None:
    with serving(lambda request, context: b"") as client:
        with pytest.raises(BodyTooLarge, match="send less"):
            ask(way, client, "chat", "a" * 5 * 1024**2)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stall_ends_with_the_time(way: str, stream: bool) -> None:
    over = threading.Event()

    def whole(data: bytes, context: grpc.ServicerContext) -> bytes:
        over.wait(60)
        return b""

    def pieces(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield START.SerializeToString()
        while not over.wait(0.01):
            yield DELTA.SerializeToString()

    with serving(pieces if stream else whole, stream=stream) as client:
        with pytest.raises(TimedOut, match=r"within 0\.3 s"):
            (streamed if stream else ask)(way, client, "chat", timeout=0.3)
        over.set()


def test_closing_a_stream_ends_the_call(way: str) -> None:
    ended = threading.Event()

    def behave(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(ended.set)
        yield START.SerializeToString()
        yield DELTA.SerializeToString()
        ended.wait(60)

    async def task(client: Client) -> None:
        async for _ in await client.async_chat("Hello", stream=True):
            break

    with serving(behave, stream=True) as client:
        if way == "threads":
            for _ in client.chat("Hello", stream=True):
                break
            assert ended.wait(60)
            ended.clear()
            stream = client.chat("Hello", stream=True)
            next(stream)
            closing = threading.Timer(0.1, stream.close)
            closing.start()
            assert [*stream] == []
            closing.join()
        else:
            asyncio.run(task(client))
        assert ended.wait(60)


def test_errors_with_details(way: str) -> None:
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    details = detailed(code, wait_s=3.5, param="model", waiting=7, may_repeat=True, odd="{")
    for stream in (False, True):
        with serving(refusing(code, "full", details), stream=stream) as client:
            with pytest.raises(QueueFull, match="the queue is full") as raised:
                (streamed if stream else ask)(way, client, "chat")
        error = raised.value
        assert error.retry_after == 3.5 and error.may_repeat and error.status == 429
        assert error.param == "model" and error.extra == {"waiting": 7, "odd": "{"}


def test_a_refusal_that_says_when_to_come_again(way: str) -> None:
    calls: list[bytes] = []
    code = grpc.StatusCode.UNAVAILABLE
    details = detailed(code, wait_s=0.01, may_repeat=True, reason="MODEL_LOADING")

    def behave(data: bytes, context: grpc.ServicerContext) -> Any:
        calls.append(data)
        if len(calls) < 3:
            refusing(code, "loading", details)(data, context)
        return WHOLE.SerializeToString()

    with serving(behave, retries=2) as client:
        assert str(ask(way, client, "chat")) == "Hello"
    assert len(calls) == 3


@pytest.mark.parametrize("details", [b"\xff\xff", b"", Status(code=5).SerializeToString()])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OpenLLMError),
        (grpc.StatusCode.UNIMPLEMENTED, RouteNotFound),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.UNAVAILABLE, ConnectionLost),
        (grpc.StatusCode.CANCELLED, ConnectionLost),
        (grpc.StatusCode.UNKNOWN, BadAnswer),
        (grpc.StatusCode.INTERNAL, BadAnswer),
        (grpc.StatusCode.DATA_LOSS, BadAnswer),
    ],
)
def test_errors_without_details(
    way: str, code: grpc.StatusCode, kind: type[OpenLLMError], details: bytes
) -> None:
    for given in (details, None):
        with serving(refusing(code, "\x1bwhy", given)) as client:
            with pytest.raises(kind, match="why") as raised:
                ask(way, client, "chat")
        assert type(raised.value) is kind and "\x1b" not in str(raised.value)


def test_metadata_that_is_too_long(way: str) -> None:
    with serving(giving(), headers={"x-long": "a" * 40_000}) as client:
        with pytest.raises(OpenLLMError, match=r"metadata.*shorter headers") as raised:
            ask(way, client, "chat")
    assert type(raised.value) is OpenLLMError and not raised.value.may_repeat


def test_codes_of_newer_servers(way: str) -> None:
    code = grpc.StatusCode.INVALID_ARGUMENT
    with serving(refusing(code, "no", detailed(code, reason="BRAND_NEW"))) as client:
        with pytest.raises(OpenLLMError) as raised:
            ask(way, client, "chat")
    assert raised.value.code == "brand_new" and raised.value.status == 400


def test_nobody_listens(way: str) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"grpc://127.0.0.1:{held.getsockname()[1]}"
        with create(url, retries=1) as client:
            for call in ("health", "chat"):
                with pytest.raises(ConnectionFailed, match="open-llm-server start"):
                    ask(way, client, call)


def test_a_server_of_http(way: str) -> None:
    with talking_to(always(http(CHAT))) as (server, _):
        with create(server.url.replace("http", "grpc"), retries=0) as client:
            with pytest.raises(OpenLLMError, match="grpc://"):
                ask(way, client, "chat", timeout=20)


def test_a_server_that_dies(way: str) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2))

    def behave(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield START.SerializeToString()
        yield DELTA.SerializeToString()
        server.stop(0)
        threading.Event().wait(0.2)

    server.add_generic_rpc_handlers((_Handler(behave, True),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with create(f"grpc://127.0.0.1:{port}", retries=3) as client:
        with pytest.raises(ConnectionLost):
            streamed(way, client, "chat")
    server.stop(0).wait()
