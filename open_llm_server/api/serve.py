"""The flow of a generating request, the same for every wire format: body, model, answer.

Knows formats only as functions from bytes to Ask.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any

from ..core import EmbedRequest
from ..errors import InvalidField
from .answer import Answer
from .ask import Ask, Signature
from .body import read_body
from .collect import collected
from .desk import Desk
from .exchange import Exchange
from .json_text import dump
from .sse import stream
from .wire import ignored_header

ITEMS_AT_ONCE = 16
"""List items written before others get a turn: 2048 vectors take a second to write."""


class Generate:
    """The handler of one route."""

    def __init__(self, desk: Desk, read: Callable[[bytes], Ask]) -> None:
        self._desk = desk
        self._read = read

    async def __call__(self, exchange: Exchange) -> None:
        desk, settings = self._desk, self._desk.settings
        desk.drain.refuse()
        timeout_s = _timeout(exchange, settings.timeout_s)
        body = await read_body(
            exchange, limit=settings.body_limit, timeout_s=settings.body_timeout_s
        )
        ask = self._read(body)
        model = desk.find(ask.model, exchange)
        if ask.ignored:
            exchange.extra_headers.append((b"x-ignored-parameters", ignored_header(ask.ignored)))
        answer = desk.answer(model, ask, exchange, timeout_s=timeout_s, receive=exchange.receive)
        signature = model.signature(exchange.id, called=ask.model)
        try:
            with ask.renaming():
                await self._answer(ask, answer, exchange, signature)
        finally:
            await answer.close()

    async def _answer(
        self, ask: Ask, answer: Answer, exchange: Exchange, signature: Signature
    ) -> None:
        exchange.write_timeout_s = self._desk.settings.write_timeout_s
        if ask.writer is not None:
            writer = ask.writer(signature)
            await stream(exchange, answer, writer, keep_alive_s=self._desk.settings.keep_alive_s)
            return
        whole = ask.whole(await collected(answer), signature)
        large = isinstance(ask.request, EmbedRequest)
        await exchange.respond(200, (await _dump_in_turns(whole) if large else dump(whole)) + b"\n")


def _timeout(exchange: Exchange, limit_s: float) -> float:
    """Seconds that this request may take. Raises InvalidField."""
    asked = exchange.header(b"x-request-timeout")
    if asked is None:
        return limit_s
    try:
        seconds = float(asked) if len(asked) <= 32 else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= limit_s:
        raise InvalidField(
            f"X-Request-Timeout: should be seconds, more than 0 and at most {limit_s:g}",
            param="x-request-timeout",
        )
    return seconds


async def _dump_in_turns(answer: Mapping[str, Any]) -> bytes:
    """JSON of an object whose lists may be very long, without stopping everyone else."""
    fields: list[bytes] = []
    for name, value in answer.items():
        if not isinstance(value, list | tuple):
            fields.append(dump(name) + b":" + dump(value))
            continue
        items: list[bytes] = []
        for start in range(0, len(value), ITEMS_AT_ONCE):
            items += map(dump, value[start : start + ITEMS_AT_ONCE])
            await asyncio.sleep(0)
        fields.append(dump(name) + b":[" + b",".join(items) + b"]")
    return b"{" + b",".join(fields) + b"}"
