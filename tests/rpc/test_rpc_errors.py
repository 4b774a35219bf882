"""Calls that fail: each error's status, code and waiting time, before and after the first text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from ports import EchoPort
from rpc_calls import GENERATING, REQUESTS, STREAMS, Refusal, serving

from open_llm_server.core import Usage
from open_llm_server.errors import (
    ContextLengthExceeded,
    EngineError,
    ModelLoading,
    OpenLLMError,
    QueueFull,
)
from open_llm_server.frames import Delta, End, Failure, Start
from open_llm_server.port import Busy, Gone, Lost
from open_llm_server.rpc import v1

Make = Callable[[], EchoPort]
PROGRESS = {"phase": "downloading", "done": 3, "total": 9, "eta_s": 4.5}


def echo(**told: Any) -> Make:
    return partial(EchoPort, **told)


def failing(error: OpenLLMError) -> Make:
    return echo(frames=[Failure(error.frame())])


REFUSALS: list[tuple[Make, StatusCode, str, float | None]] = [
    (
        failing(ContextLengthExceeded("long", param="messages", n_prompt_tokens=9, n_ctx=8)),
        StatusCode.INVALID_ARGUMENT,
        "context_length_exceeded",
        None,
    ),
    (
        failing(QueueFull("full", retry_after=3.2)),
        StatusCode.RESOURCE_EXHAUSTED,
        "queue_full",
        3.2,
    ),
    (
        failing(ModelLoading("loading", retry_after=0.5, progress=PROGRESS)),
        StatusCode.UNAVAILABLE,
        "model_loading",
        0.5,
    ),
    (failing(EngineError("broken")), StatusCode.INTERNAL, "engine_error", None),
    (echo(raises=Busy(4.0)), StatusCode.UNAVAILABLE, "runner_lost", 4.0),
    (echo(raises=Gone("none")), StatusCode.NOT_FOUND, "model_not_found", None),
    (
        echo(raises=Lost(started=False, why="died")),
        StatusCode.UNAVAILABLE,
        "runner_lost",
        1.0,
    ),
    (
        echo(raises=Lost(started=True, why="died"), after=1),
        StatusCode.UNAVAILABLE,
        "runner_lost",
        1.0,
    ),
    (echo(drops=True), StatusCode.UNAVAILABLE, "runner_lost", 1.0),
    (echo(raises=RuntimeError("secret /srv/x")), StatusCode.INTERNAL, "engine_error", None),
]


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize(("make", "status", "code", "wait_s"), REFUSALS)
async def test_failures_have_their_own_status(
    name: str, make: Make, status: StatusCode, code: str, wait_s: float | None
) -> None:
    port = make()
    async with serving(port) as wire:
        refusal = await wire.refusal(name)
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (status, code, wait_s)
    assert "secret" not in refusal.message
    assert port.opened == port.closed == 1


async def test_facts_of_an_error_are_in_its_details() -> None:
    make, *_ = REFUSALS[0]
    async with serving(make()) as wire:
        told = (await wire.refusal("Chat")).info.metadata
    assert (told["n_prompt_tokens"], told["n_ctx"]) == ("9", "8")
    make, *_ = REFUSALS[2]
    async with serving(make()) as wire:
        told = (await wire.refusal("Chat")).info.metadata
    assert '"phase": "downloading"' in told["progress"]


@pytest.mark.parametrize(
    ("name", "request_", "param"),
    [
        ("Chat", v1.ChatRequest(), "prompt"),
        ("Chat", v1.ChatRequest(prompt="x", messages=[v1.Message(role="user")]), "messages"),
        ("Chat", v1.ChatRequest(messages=[v1.Message(role="king")]), "messages.0.role"),
        ("Complete", v1.CompleteRequest(), "prompt"),
        ("Complete", v1.CompleteRequest(prompt="x", n=0), "n"),
        ("Complete", v1.CompleteRequest(prompt="x", n=129), "n"),
        ("Embed", v1.EmbedRequest(), "input"),
        ("Embed", v1.EmbedRequest(input=[v1.EmbedInput()]), "input.0"),
        ("ChatStream", v1.ChatRequest(prompt="x", sampling=v1.Sampling(top_p=2)), "top_p"),
        (
            "CompleteStream",
            v1.CompleteRequest(prompt="x", sampling=v1.Sampling(temperature=float("nan"))),
            "temperature",
        ),
    ],
)
async def test_bad_fields_are_named(name: str, request_: Any, param: str) -> None:
    port = EchoPort()
    async with serving(port) as wire:
        refusal = await wire.refusal(name, request_)
    assert (refusal.status, refusal.code) == (StatusCode.INVALID_ARGUMENT, "invalid_value")
    assert refusal.info.metadata["param"] == f'"{param}"'
    assert not port.calls


async def test_models_by_name_alias_or_not_at_all() -> None:
    async with serving() as wire:
        for model in (None, "echo", "alias/of-it"):
            answer = await wire.whole("Chat", v1.ChatRequest(prompt="x", model=model))
            assert answer.model == (model or "echo")
        for name in GENERATING:
            kind = type(REQUESTS[name])
            refusal = await wire.refusal(name, kind(prompt="x", model="ekho"))
            assert (refusal.status, refusal.code) == (StatusCode.NOT_FOUND, "model_not_found")
            assert "echo" in refusal.message


# -- after the first text ----------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
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
        (echo(frames=[Start(1), Delta(0, "one"), End(Usage())]), "engine_error"),
    ],
    ids=["lost", "dropped", "silent", "bug", "failure", "no reason"],
)
async def test_an_error_in_midstream_ends_it_without_an_end(
    name: str, make: Make, code: str
) -> None:
    port = make()
    events: list[Any] = []
    async with serving(port, silence_s=0.1) as wire:
        try:
            async for event in wire.call(name):
                events.append(event)
        except grpc.aio.AioRpcError as error:
            refusal = Refusal.of(error)
        await port.until_closed()
    assert refusal.code == code
    assert "secret" not in refusal.message
    assert [event.WhichOneof("event") for event in events] == ["start", "delta"]
    assert events[1].delta.text in ("one", "three")


async def test_a_choice_that_is_missing_is_no_answer() -> None:
    port = EchoPort(frames=[Start(1), Delta(0, "one", 1), End(Usage())])
    async with serving(port) as wire:
        refusal = await wire.refusal("Complete")
    assert (refusal.status, refusal.code) == (StatusCode.INTERNAL, "engine_error")
