"""Server-sent events: an answer written while it is made. Knows frames, but no wire format."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..errors import EngineError, OpenLLMError
from ..frames import Delta, End, Frame, Queued
from .answer import Answer
from .ask import Writer
from .exchange import ClientGone, Exchange, Header, logged_error
from .json_text import dump, utf8

log = logging.getLogger(__name__)

KEEP_ALIVE = ": keep-alive\n\n"
HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Proxies would collect the events otherwise.
    (b"x-accel-buffering", b"no"),
)


async def stream(
    exchange: Exchange, answer: Answer, writer: Writer, *, keep_alive_s: float
) -> None:
    """Sends the status with the first frame, then events as frames come.

    An error before that is raised, and gets its own status; one after it is an `error` event,
    and no `[DONE]` follows.
    """
    frames = await answer.open()
    await exchange.start(200, [*HEADERS, *_queue_position(frames)])
    text = writer.opening()
    try:
        while not answer.ended:
            frames = await answer.take(keep_alive_s)
            text += "".join(_events(frame, writer) for frame in frames) if frames else KEEP_ALIVE
            if text or answer.ended:
                await exchange.write(utf8(text), more=not answer.ended)
            text = ""
    except OpenLLMError as error:
        await _fail(exchange, error)
    except ClientGone:
        raise
    except Exception:
        logged_error(log, exchange)
        await _fail(exchange, EngineError("the request failed; the server's log has the details"))


def _events(frame: Frame, writer: Writer) -> str:
    if isinstance(frame, Delta):
        return writer.delta(frame)
    if isinstance(frame, End):
        return writer.ending(frame)
    if isinstance(frame, Queued):
        eta = "" if frame.eta_s is None else f" eta={frame.eta_s:.1f}s"
        return f": queued position={frame.position}{eta}\n\n"
    return ""


def _queue_position(frames: Sequence[Frame]) -> list[Header]:
    waiting = [frame.position for frame in frames if isinstance(frame, Queued)]
    return [(b"x-queue-position", str(waiting[0]).encode())] if waiting else []


async def _fail(exchange: Exchange, error: OpenLLMError) -> None:
    exchange.reason = error.code
    body = dump({"error": error.body() | {"request_id": exchange.id}})
    await exchange.write(b"event: error\ndata: " + body + b"\n\n", more=False)
