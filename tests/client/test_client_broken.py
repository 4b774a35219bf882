"""Connections that break or stall, at every byte and at every stage."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hostile_servers import (
    CHAT,
    STREAM,
    WAYS,
    Hostile,
    Peer,
    ask,
    chunked,
    events,
    http,
    saying,
    streamed,
    talking_to,
)
from open_llm_client import (
    ChatAnswer,
    Client,
    ConnectionFailed,
    ConnectionLost,
    OpenLLMError,
    TimedOut,
    create,
)

STREAMED = chunked(*(events(value, done=False) for value in STREAM), b"data: [DONE]\n\n")
COMPLETE_AT = STREAMED.index(b"[DONE]") + len(b"[DONE]\n\n")


def cut_off(data: bytes, *, reset: bool) -> Callable[[Peer], None]:
    """The first connection gets no byte of `data`, the next one, and so on."""
    places = iter(range(len(data) + 1))

    def behave(peer: Peer) -> None:
        place = next(places)
        peer.request()
        peer.send(data[:place])
        if reset:
            peer.reset()

    return behave


def check(error: OpenLLMError | None, place: int) -> None:
    if place < COMPLETE_AT:
        assert isinstance(error, ConnectionLost), (place, error)
        assert "call once more" in str(error)
    else:
        # The answer is whole, and what is missing is the end of the body.
        assert error is None, (place, error)


@pytest.mark.parametrize("reset", [False, True])
def test_a_stream_cut_off_at_every_byte(reset: bool) -> None:
    with talking_to(cut_off(STREAMED, reset=reset), retries=3) as (server, client):
        for place in range(len(STREAMED)):
            error = None
            try:
                with client.chat("Hello", stream=True) as stream:
                    for _ in stream:
                        pass
            except OpenLLMError as raised:
                error = raised
            # A reset may overtake what was sent before it.
            if not (reset and place >= COMPLETE_AT and error is not None):
                check(error, place)
        assert len(server.peers) == len(STREAMED)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_stream_cut_off_at_every_byte_for_tasks(reset: bool) -> None:
    with Hostile(cut_off(STREAMED, reset=reset)) as server:
        async with create(server.url, retries=3) as client:
            for place in range(len(STREAMED)):
                error = None
                try:
                    stream = await client.async_chat("Hello", stream=True)
                    async for _ in stream:
                        pass
                except OpenLLMError as raised:
                    error = raised
                if not (reset and place >= COMPLETE_AT and error is not None):
                    check(error, place)
        assert len(server.peers) == len(STREAMED)


@pytest.mark.parametrize("way", WAYS)
def test_a_whole_answer_cut_off_at_every_byte(way: str) -> None:
    data = http(CHAT)
    with talking_to(cut_off(data, reset=False), retries=3) as (server, client):
        for _ in data:
            with pytest.raises(ConnectionLost):
                ask(way, client, "chat")
        assert len(server.peers) == len(data)


def stall_before_anything(peer: Peer) -> None:
    peer.wait_for_end()


def stall_in_headers(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nx-a")
    peer.wait_for_end()


def stall_in_the_body(peer: Peer) -> None:
    peer.request()
    peer.send(STREAMED[: STREAMED.index(b" you")])
    peer.wait_for_end()


def drip(data: bytes) -> Callable[[Peer], None]:
    """A byte each hundredth of a second: no wait for one of them is long."""

    def behave(peer: Peer) -> None:
        peer.request()
        pause = threading.Event()
        for place in range(len(data)):
            peer.send(data[place : place + 1])
            pause.wait(0.01)
        while True:
            peer.send(b"4\r\n: .\n\r\n")
            pause.wait(0.01)

    return behave


STALLS = {
    "before anything": stall_before_anything,
    "in headers": stall_in_headers,
    "in the body": stall_in_the_body,
    "dripping headers": drip(b"HTTP/1.1 200 OK\r\nx-more: " + b"a" * 10_000),
    "dripping body": drip(chunked(b": waiting\n\n" * 10_000)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", STALLS)
def test_stalls_end_with_the_time(way: str, stage: str) -> None:
    with talking_to(STALLS[stage], retries=3) as (server, client):
        with pytest.raises(TimedOut, match=r"within 0\.3 s.*longer timeout"):
            streamed(way, client, "chat", timeout=0.3)
        with pytest.raises(TimedOut, match=r"within 0\.2 s"):
            streamed(way, client, "chat", timeout=0.2)
        assert len(server.peers) == 2


def test_a_stall_while_the_request_is_sent() -> None:
    def behave(peer: Peer) -> None:
        threading.Event().wait(0.5)

    with talking_to(behave) as (_, client):
        for way in WAYS:
            with pytest.raises(TimedOut):
                ask(way, client, "chat", "a" * 30_000_000, timeout=0.2)


@pytest.mark.parametrize("way", WAYS)
def test_a_slow_reader_of_a_stream_has_no_more_time(way: str) -> None:
    def behave(peer: Peer) -> None:
        peer.request()
        peer.send(STREAMED[: STREAMED.index(b" you")])
        peer.wait_for_end()

    with talking_to(behave) as (_, client):
        if way == "threads":
            with client.chat("Hello", stream=True, timeout=0.2) as stream:
                assert next(stream).text == "Hello"
                threading.Event().wait(0.3)
                with pytest.raises(TimedOut):
                    next(stream)
        else:
            asyncio.run(_read_slowly(client))


async def _read_slowly(client: Client) -> None:
    async with await client.async_chat("Hello", stream=True, timeout=0.2) as stream:
        assert (await anext(stream)).text == "Hello"
        await asyncio.sleep(0.3)
        with pytest.raises(TimedOut):
            await anext(stream)


@pytest.mark.parametrize("way", WAYS)
def test_closing_a_stream_hangs_up(way: str) -> None:
    def behave(peer: Peer) -> None:
        peer.request()
        peer.send(STREAMED[: STREAMED.index(b" you")])
        peer.wait_for_end()

    async def task(client: Client) -> None:
        async for delta in await client.async_chat("Hello", stream=True):
            assert delta.text == "Hello"
            break
        async with await client.async_chat("Hello", stream=True) as stream:
            pass
        assert [delta async for delta in stream] == []
        await (await client.async_chat("Hello", stream=True)).aclose()

    with talking_to(behave) as (server, client):
        if way == "threads":
            for delta in client.chat("Hello", stream=True):
                assert delta.text == "Hello"
                break
            with client.chat("Hello", stream=True) as stream:
                pass
            assert [*stream] == []
            client.chat("Hello", stream=True).close()
        else:
            asyncio.run(task(client))
        for _ in range(3):
            assert server.ended.acquire(timeout=60)


def test_a_stream_closed_from_another_thread() -> None:
    with talking_to(stall_in_the_body) as (server, client):
        stream = client.chat("Hello", stream=True)
        assert next(stream).text == "Hello"
        closing = threading.Timer(0.1, stream.close)
        closing.start()
        assert [*stream] == []
        closing.join()
        assert stream.text == "Hello" and server.ended.acquire(timeout=60)
        with pytest.raises(RuntimeError, match="not complete"):
            _ = stream.answer


async def test_a_cancelled_task_hangs_up() -> None:
    with Hostile(stall_before_anything) as server:
        async with create(server.url) as client:
            task = asyncio.create_task(client.async_chat("Hello"))
            assert await asyncio.to_thread(server.begun.acquire, timeout=60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.ended.acquire, timeout=60)


@pytest.mark.parametrize("way", WAYS)
def test_nobody_listens(way: str) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with create(url, retries=1) as client:
            with pytest.raises(ConnectionFailed, match="open-llm-server start") as raised:
                ask(way, client, "health")
    assert url in str(raised.value) and "OPEN_LLM_ENDPOINT" in str(raised.value)
    assert raised.value.may_repeat and raised.value.status is None


@pytest.mark.parametrize("way", WAYS)
def test_an_idle_connection_that_was_closed_is_not_used(way: str) -> None:
    def behave(peer: Peer) -> None:
        peer.request()
        peer.send(http(CHAT))

    async def task(server: Hostile, client: Client) -> list[ChatAnswer]:
        answers = []
        for _ in range(3):
            answers.append(await client.async_chat("Hello"))
            await asyncio.to_thread(server.ended.acquire, timeout=60)
        return answers

    with talking_to(behave) as (server, client):
        if way == "tasks":
            answers = asyncio.run(task(server, client))
        else:
            answers = []
            for _ in range(3):
                answers.append(client.chat("Hello"))
                assert server.ended.acquire(timeout=60)
        assert len(server.peers) == 3 and len(answers) == 3


def test_many_threads_share_a_client() -> None:
    def behave(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(http(CHAT))

    with talking_to(behave) as (server, client):
        answers: list[Any] = []

        def work() -> None:
            answers.extend(str(client.chat("Hello")) for _ in range(20))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == ["Hello you"] * 160
        assert len(server.peers) <= 8


async def test_many_tasks_share_a_client() -> None:
    def behave(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(http(CHAT))

    with Hostile(behave) as server:
        async with create(server.url) as client:
            for _ in range(3):
                answers = await asyncio.gather(*(client.async_chat("Hello") for _ in range(20)))
                assert [*map(str, answers)] == ["Hello you"] * 20
        assert len(server.peers) <= 20


@pytest.mark.parametrize("way", WAYS)
def test_a_closed_client_says_so(way: str) -> None:
    with talking_to(saying(http(CHAT))) as (_, client):
        ask("threads", client, "chat")
    with pytest.raises(RuntimeError, match=r"open_llm_client\.create"):
        ask(way, client, "chat")
    with contextlib.closing(create("http://127.0.0.1:1")):
        pass
