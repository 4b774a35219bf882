"""A blocking gRPC client, for servers that run as processes of their own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import Message
from rpc_calls import REQUESTS, RESPONSES, STREAMS, Refusal
from running import HANG_S, Running

from open_llm_server.rpc.servicer import SERVICE


class Client:
    """One connection."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def call(self, name: str, request: Message | None = None, **options: Any) -> Any:
        """A whole answer, or the events of a stream as they come."""
        begin = self.channel.unary_stream if name in STREAMS else self.channel.unary_unary
        method = begin(
            f"/{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=RESPONSES[name].FromString,
        )
        sent = REQUESTS[name] if request is None else request
        return method(sent, **{"timeout": HANG_S, **options})

    def refusal(self, name: str, request: Message | None = None, **options: Any) -> Refusal:
        return Refusal.of(self.error(name, request, **options))

    def error(self, name: str, request: Message | None = None, **options: Any) -> Any:
        try:
            answer = self.call(name, request, **options)
            got = list(answer) if name in STREAMS else answer
        except grpc.RpcError as error:
            return error
        raise AssertionError(f"{name} was answered: {got}")

    def answered(self, name: str, request: Message | None = None) -> Any:
        """The first answer that is one, of a server whose worker is being replaced."""
        deadline = time.monotonic() + HANG_S
        while True:
            try:
                return self.call(name, request, wait_for_ready=True)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                    raise


def address_of(running: Running) -> str:
    assert running.server.grpc_url
    return running.server.grpc_url.partition("://")[2]


@contextlib.contextmanager
def connected(
    running: Running, credentials: grpc.ChannelCredentials | None = None
) -> Iterator[Client]:
    """With `credentials` over TLS, to the name that the certificates of these tests are for."""
    address = address_of(running)
    options: list[tuple[str, Any]] = [
        ("grpc.ssl_target_name_override", "localhost"),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 200),
    ]
    made = (
        grpc.secure_channel(address, credentials, options=options)
        if credentials
        else grpc.insecure_channel(address, options=options)
    )
    with made as channel:
        yield Client(channel)


def text_of(events: Any) -> str:
    """The text of a whole stream."""
    kinds = []
    text = ""
    for event in events:
        kinds.append(event.WhichOneof("event"))
        text += event.delta.text
    assert (kinds[0], kinds[-1]) == ("start", "end")
    return text
