"""Closing from elsewhere: another thread, another task, the garbage collector, the client."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hostile_servers import CHAT, STREAM, Hostile, always, chunked, events, http, talking_to
from open_llm_client import Client, ConnectionLost, create
from running import HANG_S

import open_llm_server
from open_llm_server.serving import Server

DOORS = ("http", "grpc")
STREAMED = chunked(*(events(value, done=False) for value in STREAM), b"data: [DONE]\n\n")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    sets = ["fake.step_s=0.02", "fake.reply_tokens=100000"]
    with open_llm_server.start("fake", port=0, grpc_port=0, wait_s=HANG_S, sets=sets) as started:
        yield started


@pytest.fixture(params=DOORS)
def url(server: Server, request: pytest.FixtureRequest) -> str:
    url = server.url if request.param == "http" else server.grpc_url
    assert url
    return url


def wait_until_idle(server: Server) -> None:
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline:
        text = httpx.get(f"{server.url}/metrics", timeout=HANG_S).text
        if 'open_llm_requests_running{model="fake"} 0.0' in text:
            return
        time.sleep(0.05)
    pytest.fail("a generation still runs")


def in_reading(client: Client) -> tuple[Any, Any]:
    """A stream whose whole rest is there already, and its first delta."""
    stream = client.chat("Hello", stream=True)
    return stream, next(stream)


def test_a_cut_stream_takes_its_connection_with_it() -> None:
    """The rest of the answer had come; what another thread cut is not used again."""
    with talking_to(always(STREAMED)) as (server, client):
        stream, _ = in_reading(client)
        cut = stream._call.cut
        assert cut
        cut()
        assert [delta.text for delta in stream] in ([" you"], [])
        for _ in range(3):
            assert client.chat("Hello", stream=True).texts == []
        assert len(server.peers) > 1


def test_a_late_cut_meets_no_later_call() -> None:
    with talking_to(always(STREAMED)) as (server, client):
        stream, _ = in_reading(client)
        cut = stream._call.cut
        assert cut and [*stream]
        cut()  # another thread had it in its hand already
        later = client.chat("Hello", stream=True)
        cut()
        assert [delta.text for delta in later] == ["Hello", " you"]
        assert len(server.peers) == 1


def test_streams_closed_by_threads_while_they_are_read() -> None:
    with talking_to(always(STREAMED)) as (_, client):
        for _ in range(200):
            stream = client.chat("Hello", stream=True)
            closing = threading.Thread(target=stream.close)
            closing.start()
            for _ in stream:
                pass
            closing.join()
            assert [str(delta) for delta in client.chat("Hello", stream=True)] == ["Hello", " you"]


@pytest.mark.server
async def test_a_stream_closed_from_another_task(server: Server, url: str) -> None:
    async with create(url) as client:
        stream = await client.async_chat("Hello", stream=True)
        await anext(stream)

        async def read() -> int:
            return len([delta async for delta in stream])

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.2)
        await asyncio.gather(stream.aclose(), stream.aclose())
        assert await asyncio.wait_for(reading, HANG_S) >= 0
        assert not reading.cancelled() and [delta async for delta in stream] == []
        await stream.aclose()
        await asyncio.to_thread(wait_until_idle, server)
        assert (await client.async_chat("Hello", max_tokens=2)).usage.completion_tokens == 2


@pytest.mark.server
async def test_a_cancelled_reader_stays_cancelled(server: Server, url: str) -> None:
    async with create(url) as client:
        stream = await client.async_chat("Hello", stream=True)

        async def read() -> None:
            async for _ in stream:
                pass

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.1)
        with pytest.raises(RuntimeError, match="another task reads"):
            await anext(stream)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.to_thread(wait_until_idle, server)


@pytest.mark.server
def test_a_client_closed_while_its_stream_is_open(server: Server) -> None:
    assert server.grpc_url
    client = create(server.grpc_url)
    stream = client.chat("Hello", stream=True)
    next(stream)
    client.close()
    with pytest.raises(ConnectionLost, match="was closed"):
        for _ in stream:
            pass

    async def task() -> None:
        assert server.grpc_url
        client = create(server.grpc_url)
        stream = await client.async_chat("Hello", stream=True)
        await anext(stream)
        await client.aclose()
        with pytest.raises(ConnectionLost, match="was closed"):
            async for _ in stream:
                pass

    asyncio.run(task())
    wait_until_idle(server)


def test_clients_that_nobody_closes() -> None:
    async def drop(server: Hostile) -> None:
        for _ in range(10):
            await create(server.url).async_chat("Hello")
            gc.collect()
        for _ in range(10):
            assert await asyncio.to_thread(server.ended.acquire, timeout=HANG_S)

    async def drop_at_the_end(server: Hostile) -> None:
        await create(server.url).async_chat("Hello")
        gc.collect()

    with warnings.catch_warnings(), Hostile(always(http(CHAT))) as server:
        warnings.simplefilter("error")
        asyncio.run(drop(server))
        asyncio.run(drop_at_the_end(server))
        gc.collect()
        assert server.ended.acquire(timeout=HANG_S)


def test_a_loop_that_is_closed_by_hand() -> None:
    """Without anything left to do for it: what a call opened but its connection is over."""
    with talking_to(always(STREAMED)) as (server, _):
        loop = asyncio.new_event_loop()
        client = create(server.url)

        async def read() -> None:
            stream = await client.async_chat("Hello", stream=True)
            assert len([delta async for delta in stream]) == 2

        loop.run_until_complete(read())
        assert not asyncio.all_tasks(loop)
        loop.run_until_complete(client.aclose())
        loop.close()
