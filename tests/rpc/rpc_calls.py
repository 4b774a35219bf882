"""Our own gRPC server on a loopback port of the test's process, and raw calls to it.

The models behind it are ports of `ports`; the wire, the server and the client are real.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from ports import EchoPort

from open_llm_server.api.desk import Desk
from open_llm_server.api.settings import ApiSettings, ServedModel
from open_llm_server.port import ModelPort
from open_llm_server.rpc import v1
from open_llm_server.rpc.server import RpcServer, Tls
from open_llm_server.rpc.servicer import SERVICE
from open_llm_server.rpc.status import DETAILS
from open_llm_server.supervisor_sockets import hold_tcp

HANG_S = 30.0
"""No test measures with this; it ends one that hangs."""
WORDS = "one two three"
REQUESTS: dict[str, Message] = {
    "Chat": v1.ChatRequest(prompt=WORDS),
    "ChatStream": v1.ChatRequest(prompt=WORDS),
    "Complete": v1.CompleteRequest(prompt=WORDS),
    "CompleteStream": v1.CompleteRequest(prompt=WORDS),
    "Embed": v1.EmbedRequest(input=[v1.EmbedInput(text=WORDS)]),
    "ListModels": v1.ListModelsRequest(),
}
"""A good request for each method."""
RESPONSES: dict[str, Any] = {
    "Chat": v1.ChatResponse,
    "ChatStream": v1.ChatStreamResponse,
    "Complete": v1.CompleteResponse,
    "CompleteStream": v1.CompleteStreamResponse,
    "Embed": v1.EmbedResponse,
    "ListModels": v1.ListModelsResponse,
}
STREAMS = ("ChatStream", "CompleteStream")
GENERATING = ("Chat", "ChatStream", "Complete", "CompleteStream")
Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Refusal:
    """An error as a client sees it."""

    status: grpc.StatusCode
    message: str
    info: ErrorInfo
    retry_after_s: float | None

    @property
    def code(self) -> str:
        code: str = self.info.reason.lower()
        return code

    @classmethod
    def of(cls, error: Any) -> Refusal:
        """Asserts that status, message and details say the same."""
        packed = dict(error.trailing_metadata())[DETAILS]
        status = Status.FromString(packed)
        assert status.code == error.code().value[0]
        assert status.message == error.details()
        info, wait = ErrorInfo(), RetryInfo()
        assert status.details[0].Unpack(info)
        waits = [wait.retry_delay for detail in status.details[1:] if detail.Unpack(wait)]
        seconds = [delay.ToNanoseconds() / 1e9 for delay in waits]
        return cls(error.code(), error.details(), info, *(seconds or [None]))


@dataclass(frozen=True)
class Wire:
    """A server and one connection to it."""

    server: RpcServer
    desk: Desk
    port: int
    channel: grpc.aio.Channel

    def call(self, name: str, request: Message | bytes | None = None, **options: Any) -> Any:
        """The call, begun; answers are parsed. `options` are those of grpc's calls."""
        made = REQUESTS[name] if request is None else request
        data = made if isinstance(made, bytes) else made.SerializeToString()
        begin = self.channel.unary_stream if name in STREAMS else self.channel.unary_unary
        method: Any = begin(f"/{SERVICE}/{name}", response_deserializer=RESPONSES[name].FromString)
        return method(data, **{"timeout": HANG_S, **options})

    async def whole(self, name: str, request: Message | bytes | None = None, **options: Any) -> Any:
        """The whole answer, of a stream as a list."""
        call = self.call(name, request, **options)
        return [event async for event in call] if name in STREAMS else await call

    async def error(
        self, name: str, request: Message | bytes | None = None, **options: Any
    ) -> grpc.aio.AioRpcError:
        """What the call ends with, whatever came before."""
        try:
            answer = await self.whole(name, request, **options)
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError(f"{name} was answered: {answer}")

    async def refusal(
        self, name: str, request: Message | bytes | None = None, **options: Any
    ) -> Refusal:
        return Refusal.of(await self.error(name, request, **options))


def desk_of(*ports: ModelPort, name: str = "echo", **settings: Any) -> Desk:
    """A desk that serves one model, from an EchoPort unless told otherwise."""
    served = ServedModel(name, ("alias/of-it",), ports or (EchoPort(),), {"family": "echo"})
    return Desk.of([served], ApiSettings(**settings))


@contextlib.asynccontextmanager
async def serving(
    *ports: ModelPort, desk: Desk | None = None, tls: Tls | None = None, **settings: Any
) -> AsyncIterator[Wire]:
    """A server until the end of the block; it does not wait for open calls then."""
    desk = desk or desk_of(*ports, **{"drain_timeout_s": 0.0, **settings})
    with held_port() as port:
        server = RpcServer(desk, f"127.0.0.1:{port}", tls)
        await server.start()
        try:
            async with channel_to(port) as channel:
                yield Wire(server, desk, port, channel)
        finally:
            await server.stop()


def channel_to(port: int, **options: Any) -> grpc.aio.Channel:
    """A connection that no other test shares."""
    pairs = [("grpc.use_local_subchannel_pool", 1), *options.items()]
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=pairs)


@contextlib.contextmanager
def held_port() -> Any:
    held: socket.socket = hold_tcp("127.0.0.1", 0)
    with held:
        yield held.getsockname()[1]
