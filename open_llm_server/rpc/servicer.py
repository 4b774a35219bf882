"""The methods of open_llm.v1.OpenLLM. Each reads as the native route of the same name does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from ..api import native
from ..api.answer import Answer
from ..api.ask import Ask
from ..api.collect import collected
from ..api.desk import Desk
from ..api.exchange import ClientGone
from ..api.probes import about
from . import messages, v1
from .call import ID, Call, Context, edge
from .stream import Event, Events

SERVICE = "open_llm.v1.OpenLLM"
METHODS = ("Chat", "ChatStream", "Complete", "CompleteStream", "Embed", "ListModels")
Body = Callable[[bytes], bytes]
Read = Callable[[bytes], Ask]
Respond = Callable[[Mapping[str, Any]], Awaitable[Any]]
Wrap = Callable[[Event], Any]


def handlers(desk: Desk) -> grpc.GenericRpcHandler:
    """All methods, for grpc's server."""
    methods = {
        "Chat": _Whole(desk, messages.chat_body, native.read_chat, messages.chat_response),
        "Complete": _Whole(
            desk, messages.complete_body, native.read_complete, messages.complete_response
        ),
        "Embed": _Whole(desk, messages.embed_body, native.read_embed, messages.embed_response),
        "ListModels": _Models(desk),
    }
    streams = {
        "ChatStream": _Stream(desk, messages.chat_body, native.read_chat, _chat_event),
        "CompleteStream": _Stream(
            desk, messages.complete_body, native.read_complete, _complete_event
        ),
    }
    # Messages are read by the methods themselves: what cannot be read is then an error like all
    # others, and whoever has no key has nothing read at all.
    made: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(method.named(name))
        for name, method in methods.items()
    } | {
        name: grpc.unary_stream_rpc_method_handler(method.named(name))
        for name, method in streams.items()
    }
    return grpc.method_handlers_generic_handler(SERVICE, made)


class _Method:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._path = ""

    def named(self, name: str) -> Any:
        self._path = f"/{SERVICE}/{name}"
        return self.serve

    async def serve(self, data: bytes, context: Context) -> Any:
        raise NotImplementedError


class _Generate(_Method):
    def __init__(self, desk: Desk, body: Body, read: Read) -> None:
        super().__init__(desk)
        self._body = body
        self._read = read

    def _ask(self, data: bytes) -> Ask:
        self._desk.drain.refuse()
        return self._read(self._body(data))

    def _answer(self, ask: Ask, call: Call) -> tuple[Answer, Any]:
        model = self._desk.find(ask.model, call)
        timeout_s = call.timeout_s(self._desk.settings.timeout_s)
        answer = self._desk.answer(model, ask, call, timeout_s=timeout_s)
        return answer, model.signature(call.id, called=ask.model)


class _Whole(_Generate):
    """An answer in one message."""

    def __init__(self, desk: Desk, body: Body, read: Read, respond: Respond) -> None:
        super().__init__(desk, body, read)
        self._respond = respond

    async def serve(self, data: bytes, context: Context) -> bytes:
        async with edge(self._desk, context, self._path) as call:
            ask = self._ask(data)
            answer, signature = self._answer(ask, call)
            try:
                with ask.renaming():
                    whole = ask.whole(await collected(answer), signature)
            finally:
                await answer.close()
            response: bytes = (await self._respond(whole)).SerializeToString()
        return response


class _Stream(_Generate):
    """An answer while it is made."""

    def __init__(self, desk: Desk, body: Body, read: Read, wrap: Wrap) -> None:
        super().__init__(desk, body, read)
        self._wrap = wrap

    async def serve(self, data: bytes, context: Context) -> None:
        async with edge(self._desk, context, self._path) as call:
            ask = self._ask(data)
            answer, signature = self._answer(ask, call)
            events = Events(ask, signature)
            reader = _Reader(context, answer, self._desk.settings.write_timeout_s)
            try:
                with ask.renaming():
                    await answer.open()
                    await reader.begin(call.id)
                    while not answer.ended:
                        for event in events.of(await answer.take()):
                            await reader.send(self._wrap(event).SerializeToString())
            finally:
                await answer.close()


class _Reader:
    """Whoever reads a stream; once nothing has been read for `limit_s`, the answer is closed.

    The message that is being sent is waited for, as long as the client holds the call: until it
    is out, grpc can send no status either, and the client would never hear of the end.
    """

    def __init__(self, context: Context, answer: Answer, limit_s: float) -> None:
        self._context = context
        self._answer = answer
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._given_up: asyncio.Task[None] | None = None

    async def begin(self, id: str) -> None:
        """Says that the request is accepted, ahead of any message: the first may be long in
        coming."""
        try:
            await self._context.send_initial_metadata(((ID, id),))
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None

    async def send(self, message: bytes) -> None:
        """Raises ClientGone where that took too long."""
        timer = self._loop.call_later(self._limit_s, self._give_up)
        try:
            await self._context.write(message)
        except grpc.aio.InternalError:
            # The call is over, and grpc is about to cancel this task for it.
            raise asyncio.CancelledError from None
        finally:
            timer.cancel()
        if self._given_up:
            raise ClientGone

    def _give_up(self) -> None:
        self._given_up = self._loop.create_task(self._answer.close())


class _Models(_Method):
    async def serve(self, data: bytes, context: Context) -> bytes:
        async with edge(self._desk, context, self._path):
            conditions = await self._desk.pulse.conditions()
            listed = [about(model, conditions[model.name]) for model in self._desk.catalog]
            response = messages.models_response(listed).SerializeToString()
        return response


def _chat_event(event: Event) -> v1.ChatStreamResponse:
    return v1.ChatStreamResponse(**_field(event))


def _complete_event(event: Event) -> v1.CompleteStreamResponse:
    return v1.CompleteStreamResponse(**_field(event))


def _field(event: Event) -> dict[str, Any]:
    match event:
        case v1.StreamStart():
            return {"start": event}
        case v1.StreamDelta():
            return {"delta": event}
        case _:
            return {"end": event}
