"""A host with the fake engine, what it is asked, and what is read from its frames."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from open_llm_server.config.cards import Turns
from open_llm_server.core import ChatRequest, Message, Request, Sampling
from open_llm_server.engine.fake import FakeEngine, Faults
from open_llm_server.engine.prompts import TurnsFormat
from open_llm_server.engine.worker import Worker
from open_llm_server.frames import Call, Delta, End, Failure, Frame, FrameDecoder, encode_call
from open_llm_server.generation import Settings
from open_llm_server.host import Host, Identity

FEW = Sampling(max_tokens=3)
TURNS = Turns(system="[{content}]\n", user="U: {content}\n", assistant="A: {content}\n", reply="A:")
SETTINGS = Settings(
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    max_tokens=6,
    stop_sequence=(),
    frequency_penalty=0.0,
    presence_penalty=0.0,
    repetition_penalty=1.0,
    seed=None,
    num_beams=1,
    prompt=None,
)


@asynccontextmanager
async def hosting(
    engine: FakeEngine | None = None, settings: Settings = SETTINGS, stop: tuple[str, ...] = ()
) -> AsyncIterator[Host]:
    engine = engine or FakeEngine(context_length=256, slots=4)
    worker = Worker(engine, queue_size=8)
    worker.start()
    host = Host(
        engine=engine,
        worker=worker,
        prompts=TurnsFormat(TURNS, engine.control_texts),
        settings=settings,
        identity=Identity(name="m", family="fake", source="built in", engine="fake", stop=stop),
    )
    try:
        yield host
    finally:
        await host.close()


async def ask(host: Host, request: Request, **kw: Any) -> list[Frame]:
    decoder = FrameDecoder()
    call = encode_call(Call.of(request, id="req-1", **kw))
    return [
        frame async for line in host.serve(call) for frame in decoder.push(line.encode("ascii"))
    ]


def endless_engine() -> FakeEngine:
    """Talks for minutes, so that nothing ends by itself while a test looks."""
    slow = Faults(step_s=0.002)
    return FakeEngine(context_length=100_000, slots=1, reply_tokens=100_000, faults=slow)


def chat(text: str, **kw: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), **kw)


def text(frames: list[Frame], index: int = 0) -> str:
    return "".join(f.text for f in frames if isinstance(f, Delta) and f.index == index)


def end(frames: list[Frame]) -> End:
    assert isinstance(frames[-1], End), frames[-1]
    return frames[-1]


def failure(frames: list[Frame]) -> dict[str, Any]:
    assert isinstance(frames[-1], Failure), frames[-1]
    return frames[-1].error
