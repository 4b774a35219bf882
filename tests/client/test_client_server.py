"""Against the real server, through every door: cancels, keys, limits, conversations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import httpx
import pytest
from hostile_servers import ask
from open_llm_client import (
    AuthenticationError,
    Client,
    ContextLengthExceeded,
    InvalidField,
    ModelNotFound,
    OpenLLMError,
    QueueFull,
    TimedOut,
    create,
)
from running import HANG_S

import open_llm_server
from open_llm_server.serving import Server

pytestmark = pytest.mark.server
DOORS = ("http", "grpc")
KEY = "right-key"
SETS = ["slow.step_s=0.05", "slow.reply_tokens=100000", "slow.slots=1", "slow.queue_size=1"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    models = ["echo=fake", "slow=fake"]
    with open_llm_server.start(
        models, port=0, grpc_port=0, wait_s=HANG_S, sets=SETS, api_key=KEY
    ) as started:
        yield started


@pytest.fixture(params=DOORS)
def client(server: Server, request: pytest.FixtureRequest) -> Iterator[Client]:
    with create(url_of(server, request.param), api_key=KEY, retries=0) as client:
        yield client


def url_of(server: Server, door: str) -> str:
    url = server.url if door == "http" else server.grpc_url
    assert url
    return url


def wait_until_idle(server: Server) -> None:
    """Until the slow model has nothing to do."""
    deadline = time.monotonic() + HANG_S
    headers = {"authorization": f"Bearer {KEY}"}
    while time.monotonic() < deadline:
        text = httpx.get(f"{server.url}/metrics", headers=headers, timeout=HANG_S).text
        if 'open_llm_requests_running{model="slow"} 0.0' in text:
            return
        time.sleep(0.05)
    pytest.fail("a slot is still taken")


def test_closing_a_stream_frees_its_slot(server: Server, client: Client) -> None:
    for _ in range(2):
        for delta in client.chat("Hello", model="slow", stream=True):
            assert delta.text
            break
        wait_until_idle(server)
    with client.complete("Hello", model="slow", stream=True) as stream:
        next(stream)
    wait_until_idle(server)


def test_closing_a_stream_of_a_task_frees_its_slot(server: Server, client: Client) -> None:
    async def leave() -> None:
        async for delta in await client.async_chat("Hello", model="slow", stream=True):
            assert delta.text
            break

    async def close() -> None:
        async with await client.async_chat("Hello", model="slow", stream=True) as stream:
            await anext(stream)

    async def cancel() -> None:
        task = asyncio.create_task(client.async_chat("Hello", model="slow"))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for way in (leave, close, cancel):
        asyncio.run(way())
        wait_until_idle(server)


def test_the_time_of_a_call(server: Server, client: Client) -> None:
    for way in ("threads", "tasks"):
        with pytest.raises(TimedOut, match="longer timeout"):
            ask(way, client, "chat", "Hello", model="slow", timeout=0.3)
        wait_until_idle(server)
    stream = client.chat("Hello", model="slow", stream=True, timeout=0.5)
    with pytest.raises(TimedOut):
        for _ in stream:
            pass
    assert stream.text
    wait_until_idle(server)


def test_a_full_queue(server: Server, client: Client) -> None:
    async def crowd() -> list[BaseException]:
        calls = [client.async_chat("Hello", model="slow", timeout=1) for _ in range(4)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        return [result for result in results if isinstance(result, BaseException)]

    errors = asyncio.run(crowd())
    assert {type(error) for error in errors} == {TimedOut, QueueFull}
    for error in errors:
        if isinstance(error, QueueFull):
            assert error.retry_after is not None and error.may_repeat and error.status == 429
    wait_until_idle(server)


@pytest.mark.parametrize("door", DOORS)
def test_keys(server: Server, door: str) -> None:
    for key in ("wrong-key", ""):
        with create(url_of(server, door), api_key=key) as client:
            for way in ("threads", "tasks"):
                with pytest.raises(AuthenticationError, match="key"):
                    ask(way, client, "chat")
            assert client.health().ready and asyncio.run(client.async_health()).ready
    with create(url_of(server, door), headers={"X-Api-Key": KEY}) as client:
        assert client.chat("Hello").message


def test_defaults_of_the_client(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPEN_LLM_ENDPOINT", server.url)
    monkeypatch.setenv("OPEN_LLM_API_KEY", KEY)
    with create(model="nobody") as client:
        with pytest.raises(ModelNotFound, match="echo, slow"):
            client.chat("Hello")
        assert client.chat("Hello", model="echo").model == "echo"


def test_a_client_in_several_event_loops(client: Client) -> None:
    async def both() -> str:
        answers = await asyncio.gather(*(client.async_chat("Hello") for _ in range(5)))
        assert len({answer.message for answer in answers}) == 1
        return answers[0].message

    assert asyncio.run(both()) == asyncio.run(both()) == client.chat("Hello").message


async def test_a_client_as_a_context_of_tasks(server: Server) -> None:
    for door in DOORS:
        async with create(url_of(server, door), api_key=KEY) as client:
            assert (await client.async_chat("Hello")).message
        with pytest.raises(RuntimeError, match="closed"):
            await client.async_chat("Hello")


def test_a_conversation(client: Client) -> None:
    talk = client.conversation(system="Be brief.", max_tokens=5)
    first = talk.say("One")
    assert [turn["role"] for turn in talk.messages] == ["system", "user", "assistant"]
    assert talk.messages[-1]["content"] == first.message
    with talk.say("Two", stream=True) as stream:
        texts = [delta.text for delta in stream]
    assert talk.messages[-1]["content"] == "".join(texts) == stream.message
    assert len(talk.messages) == 5 and "5 messages" in repr(talk)
    # What was said is what is asked for.
    assert client.chat(messages=talk.messages, max_tokens=5).usage.prompt_tokens > 0


async def test_a_conversation_of_tasks(server: Server) -> None:
    for door in DOORS:
        async with create(url_of(server, door), api_key=KEY) as client:
            talk = client.conversation(max_tokens=5)
            await talk.async_say("One")
            stream = await talk.async_say("Two", stream=True)
            assert "".join([delta.text async for delta in stream]) == talk.messages[-1]["content"]
            assert len(talk.messages) == 4
            stream = await talk.async_say("Three", stream=True)
            await stream.aclose()
            with pytest.raises(OpenLLMError):
                await talk.async_say("Four", temperature=9)
            assert len(talk.messages) == 4


def test_a_failed_question_leaves_the_history(server: Server, client: Client) -> None:
    talk = client.conversation(model="slow", max_tokens=3)
    talk.say("One")
    before = [*talk.messages]
    with pytest.raises(InvalidField):
        talk.say("Two", temperature=9)
    with pytest.raises(TimedOut):
        talk.say("Two", timeout=0.2, max_tokens=1000)
    stream = talk.say("Two", stream=True, max_tokens=1000)
    next(stream)
    with pytest.raises(RuntimeError, match="waits for an answer"):
        talk.say("Three")
    stream.close()
    for _ in talk.say("Two", stream=True, max_tokens=1000):
        break
    assert talk.messages == before
    wait_until_idle(server)
    with pytest.raises(ContextLengthExceeded) as raised:
        talk.say("word " * 200_000, max_tokens=1)
    assert talk.messages == before and raised.value.extra["n_ctx"] > 0
    with pytest.raises(TypeError, match="temperature"):
        client.conversation(temprature=1)  # type: ignore[call-arg]  # that is the point
