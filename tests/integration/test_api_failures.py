"""The way of a request that fails: statuses before the first byte, events after it, models that
are busy, lost, silent or late, and the copies that stand in for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from answered_texts import BODIES, CHAT, HELLO, STREAMED, body, texts
from asgi import App, Client, app_of, post
from ports import EchoPort

from open_llm_server.errors import (
    ContextLengthExceeded,
    EngineError,
    ModelLoading,
    OpenLLMError,
    QueueFull,
)
from open_llm_server.frames import Alive, Delta, Failure, Frame, Start, TokenScore
from open_llm_server.port import Busy, Gone, Lost

# -- errors before the first byte --------------------------------------------------------------


Make = Callable[[], EchoPort]


def echo(**told: Any) -> Make:
    return partial(EchoPort, **told)


def failing(error: OpenLLMError) -> Make:
    return echo(frames=[Failure(error.frame())])


REFUSALS: list[tuple[Make, int, str, bool]] = [
    (
        failing(ContextLengthExceeded("long", param="messages")),
        400,
        "context_length_exceeded",
        False,
    ),
    (failing(QueueFull("full", retry_after=3.2)), 429, "queue_full", True),
    (failing(ModelLoading("loading", retry_after=0.01)), 503, "model_loading", True),
    (failing(EngineError("broken")), 500, "engine_error", False),
    (echo(raises=Busy(4.0)), 503, "runner_lost", True),
    (echo(raises=Gone("none")), 404, "model_not_found", False),
    (echo(raises=Lost(started=False, why="died")), 503, "runner_lost", True),
    (echo(raises=Lost(started=True, why="died"), after=1), 503, "runner_lost", True),
    (echo(drops=True), 503, "runner_lost", True),
    (echo(raises=RuntimeError("secret path /srv/x")), 500, "engine_error", False),
]


@pytest.mark.parametrize("path", list(BODIES))
@pytest.mark.parametrize(("make", "status", "code", "wait"), REFUSALS)
async def test_failures_have_their_own_status(
    path: str, make: Make, status: int, code: str, wait: bool
) -> None:
    port = make()
    reply = await post(app_of(port), path, body(path, stream=False))
    assert (reply.status, reply.error["code"]) == (status, code)
    assert ("retry-after" in reply.headers) == wait
    if wait:
        assert int(reply.headers["retry-after"]) >= 1
        assert int(reply.headers["retry-after-ms"]) >= 1
    assert "secret" not in reply.text
    assert port.opened == port.closed == 1


@pytest.mark.parametrize(("make", "status", "code"), [refusal[:3] for refusal in REFUSALS])
async def test_a_stream_that_fails_before_it_begins_has_a_status_too(
    make: Make, status: int, code: str
) -> None:
    port = make()
    port.after = 0
    reply = await post(app_of(port), CHAT, body(CHAT, stream=True))
    assert (reply.status, reply.error["code"]) == (status, code)
    assert port.opened == port.closed == 1


async def test_retry_after_is_whole_seconds_rounded_up() -> None:
    reply = await post(
        app_of(failing(QueueFull("full", retry_after=3.2))()), "/chat", {"prompt": "x"}
    )
    assert (reply.headers["retry-after"], reply.headers["retry-after-ms"]) == ("4", "3200")


# -- errors after the first byte ---------------------------------------------------------------


@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize(
    ("make", "code"),
    [
        (echo(raises=Lost(started=True, why="killed"), after=2), "runner_lost"),
        (echo(drops=True, after=2), "runner_lost"),
        (echo(stalls=True, after=2), "runner_lost"),
        (echo(raises=RuntimeError("secret"), after=2), "engine_error"),
        (
            echo(frames=[Start(1), Delta(0, "one"), Failure(EngineError("broken").frame())]),
            "engine_error",
        ),
    ],
)
async def test_an_error_in_midstream_is_an_event_and_no_done(
    path: str, make: Make, code: str
) -> None:
    port = make()
    reply = await post(app_of(port, silence_s=0.05), path, body(path, stream=True))
    assert reply.status == 200
    assert reply.events[-1]["error"]["code"] == code
    assert "event: error\ndata: " in reply.text
    assert "[DONE]" not in reply.text
    assert "secret" not in reply.text
    assert texts(reply) in ("one", "three")
    assert port.opened == port.closed


async def test_a_bug_in_a_format_is_an_event_and_one_log_entry(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Scores that no JSON can hold: writing the chunk raises.
    port = EchoPort(frames=[Start(1), Delta(0, "x", 1, (TokenScore(0, b"x", float("nan")),))])
    fields = body(CHAT, stream=True) | {"logprobs": True}
    reply = await post(app_of(port), CHAT, fields)
    assert reply.events[-1]["error"]["code"] == "engine_error"
    records = [record for record in caplog.records if record.exc_info]
    assert len(records) == 1
    assert reply.headers["x-request-id"] in records[0].getMessage()
    # The same before the first byte.
    reply = await post(app_of(port), CHAT, HELLO | {"logprobs": True})
    assert (reply.status, reply.error["code"]) == (500, "engine_error")
    assert "nan" not in reply.text.lower()


async def test_silence_and_deadlines() -> None:
    stalled = EchoPort(stalls=True)
    reply = await post(app_of(stalled, silence_s=0.02), "/chat", {"prompt": "x"})
    assert (reply.status, reply.error["code"]) == (503, "runner_lost")
    await stalled.until_closed()


class Alives:
    """Gives signs of life for ever, and nothing else."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def stream(self, request: str, *, session: str) -> AsyncGenerator[Frame, None]:
        try:
            while True:
                yield Alive()
                await asyncio.sleep(0.005)
        finally:
            self.closed.set()


async def test_a_model_that_lives_on_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_llm_server.api.answer.DEADLINE_GRACE_S", 0.0)
    port = Alives()
    reply = await post(
        app_of(port, silence_s=5), "/chat", {"prompt": "x"}, [("x-request-timeout", "0.05")]
    )
    assert (reply.status, reply.error["code"]) == (504, "deadline_exceeded")
    assert port.closed.is_set()
    port = Alives()
    app = app_of(port, silence_s=5, keep_alive_s=0.005, timeout_s=0.4)
    reply = await post(app, "/chat-sse", {"prompt": "x"})
    # It was promised an answer by then: the end is an event.
    assert reply.status == 200
    assert reply.events == [{"error": reply.events[0]["error"]}]
    assert reply.events[0]["error"]["code"] == "deadline_exceeded"
    assert port.closed.is_set()


# -- copies ------------------------------------------------------------------------------------


@dataclass
class Copies:
    first: EchoPort
    second: EchoPort

    @property
    def app(self) -> App:
        return app_of(self.first, self.second)

    @property
    def calls(self) -> list[int]:
        return [len(self.first.calls), len(self.second.calls)]


async def test_calls_go_to_the_copy_with_least_in_flight() -> None:
    gate, changed = asyncio.Event(), asyncio.Event()
    copies = Copies(EchoPort(gate=gate, changed=changed), EchoPort(gate=gate, changed=changed))
    app = copies.app
    clients = [Client(app, "POST", "/chat", pieces=[b'{"prompt": "x"}']) for _ in range(6)]
    for expected, client in enumerate(clients, start=1):
        await client.__aenter__()
        while sum(copies.calls) < expected:
            changed.clear()
            await changed.wait()
    assert copies.calls == [3, 3]
    gate.set()
    for client in clients:
        assert (await client.whole()).status == 200
        await client.__aexit__(None, None, None)


@pytest.mark.parametrize(
    "make",
    [
        echo(raises=Busy(3)),
        echo(raises=Lost(started=False, why="died")),
        echo(raises=Gone("none")),
        failing(QueueFull("full", retry_after=2)),
        failing(ModelLoading("loading", retry_after=2)),
    ],
)
async def test_what_was_not_started_is_tried_on_another_copy(make: Make) -> None:
    bad = make()
    app = Copies(bad, EchoPort()).app
    for _ in range(4):
        reply = await post(app, "/chat", {"prompt": "one"})
        assert reply.json["message"] == "one"
    assert bad.calls
    assert bad.opened == bad.closed


@pytest.mark.parametrize(
    "make",
    [
        echo(raises=Lost(started=True, why="died"), after=1),
        failing(EngineError("broken")),
        failing(ContextLengthExceeded("long")),
    ],
)
async def test_what_was_started_or_refused_is_not(make: Make) -> None:
    bad = make()
    good = EchoPort()
    app = Copies(bad, good).app
    statuses = [(await post(app, "/chat", {"prompt": "one"})).status for _ in range(4)]
    assert len(bad.calls) == statuses.count(bad_status(bad)) == 2
    assert len(good.calls) == statuses.count(200) == 2


def bad_status(port: EchoPort) -> int:
    if isinstance(port.raises, Lost):
        return 503
    (frame,) = port.frames
    assert isinstance(frame, Failure)
    return 400 if frame.error["code"] == "context_length_exceeded" else 500


async def test_a_lost_call_is_tried_once_more_only() -> None:
    ports = [EchoPort(raises=Lost(started=False, why="died")) for _ in range(4)]
    reply = await post(app_of(*ports), "/chat", {"prompt": "x"})
    assert reply.status == 503
    assert sum(len(port.calls) for port in ports) == 2


async def test_when_all_copies_refuse_the_refusal_is_told() -> None:
    full = failing(QueueFull("full", retry_after=2))
    app = app_of(full(), full())
    reply = await post(app, "/chat", {"prompt": "x"})
    assert (reply.status, reply.headers["retry-after"]) == (429, "2")
