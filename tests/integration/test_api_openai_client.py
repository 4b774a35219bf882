"""The official `openai` package against a real socket: chat, completions, embeddings, models,
streamed and not, and what it makes of our errors.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
import uvicorn
from asgi import App, app_of
from openai.types.chat import ChatCompletionMessageParam
from ports import EchoPort, vector_of

from open_llm_server.api.app import hash_key
from open_llm_server.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineError,
    OpenLLMError,
    QueueFull,
)
from open_llm_server.frames import Failure
from open_llm_server.port import Lost

KEY = "sk-test-1234567890"
TURNS: list[ChatCompletionMessageParam] = [{"role": "user", "content": "one two three"}]


class Served:
    """An app on a free port of 127.0.0.1, on a loop of its own."""

    def __init__(self, app: App) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def __enter__(self) -> openai.OpenAI:
        # The socket listens at once: whoever comes too early waits for the first accept.
        self._socket.listen()
        self._thread.start()
        self.client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key=KEY, max_retries=0, timeout=20
        )
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(timeout=20)
        self._socket.close()
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with Served(app_of(api_key_hashes=(hash_key(KEY),))) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="echo",
        messages=TURNS,
        temperature=0,
        seed=1,
        stop=["##"],
        n=2,
    )
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint
    assert [choice.message.content for choice in answer.choices] == ["one two three"] * 2
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 6)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


def test_chat_with_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="alias/of-it",
        messages=TURNS,
        logprobs=True,
        top_logprobs=2,
        max_completion_tokens=2,
    )
    assert answer.model == "alias/of-it"
    assert answer.choices[0].finish_reason == "length"
    scores = answer.choices[0].logprobs
    assert scores is not None
    assert scores.content is not None
    assert [score.token for score in scores.content] == ["one", " two"]
    assert [len(score.top_logprobs) for score in scores.content] == [2, 2]


def test_a_streamed_chat(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="echo",
            messages=TURNS,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == "one two three"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 6


def test_the_stream_helper_joins_the_same_text(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="echo", messages=TURNS) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "one two three"


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="echo", prompt=["a b", "c d"], n=2, echo=True, logprobs=1, max_tokens=1
    )
    assert [choice.text for choice in answer.choices] == ["a bb", "a bb", "c dd", "c dd"]
    scores = answer.choices[0].logprobs
    assert scores is not None
    assert scores.tokens == ["a", " b", "b"]
    assert scores.text_offset == [0, 1, 3]
    assert scores.token_logprobs == [None, -0.25, -0.25]
    tokens = client.completions.create(model="echo", prompt=[[1, 2], [3]])
    assert [choice.text for choice in tokens.choices] == ["t2 t1", "t3"]
    chunks = client.completions.create(model="echo", prompt="a b c", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "c b a"


def test_embeddings(client: openai.OpenAI) -> None:
    # The client asks for base64 by itself, and unpacks it.
    answer = client.embeddings.create(model="echo", input=["a", "b"])
    assert [tuple(one.embedding) for one in answer.data] == [vector_of("a"), vector_of("b")]
    plain = client.embeddings.create(model="echo", input="a", encoding_format="float", dimensions=4)
    assert tuple(plain.data[0].embedding) == vector_of("a")
    assert plain.usage.total_tokens == 1


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["echo"]
    assert client.models.retrieve("alias/of-it").id == "echo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_refusals_are_the_packages_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="echo", messages=TURNS, temperature=9)
    assert bad.value.param == "temperature"
    assert bad.value.code == "invalid_value"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="other", messages=TURNS)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError) as unknown:
        client.with_options(api_key="wrong").models.list()
    assert unknown.value.code == "invalid_api_key"
    assert unknown.value.request_id
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="echo", prompt="a " * 5000)
    assert long.value.code == "context_length_exceeded"


def test_a_full_queue_is_a_rate_limit_error() -> None:
    full = EchoPort(frames=[Failure(QueueFull("full", retry_after=2.5).frame())])
    with Served(app_of(full)) as client, pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model="echo", messages=TURNS)
    assert refused.value.response.headers["retry-after"] == "3"
    assert refused.value.code == "queue_full"


def test_the_package_tries_again_what_may_succeed() -> None:
    port = EchoPort(raises=Lost(started=False, why="died"))
    with Served(app_of(port)) as client:
        with pytest.raises(openai.InternalServerError):
            client.with_options(max_retries=1).chat.completions.create(
                model="echo",
                messages=TURNS,
            )
    assert len(port.calls) == 2


@pytest.mark.parametrize(
    "error", [EngineError("this request could not be computed"), DeadlineExceeded("too late")]
)
def test_the_package_does_not_repeat_what_would_fail_again(error: OpenLLMError) -> None:
    port = EchoPort(frames=[Failure(error.frame())])
    with Served(app_of(port)) as client:
        with pytest.raises(openai.InternalServerError):
            client.with_options(max_retries=2).chat.completions.create(model="echo", messages=TURNS)
    assert len(port.calls) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_an_error_in_midstream_is_raised(stream: bool) -> None:
    port = EchoPort(frames=(), drops=True, after=3)
    with Served(app_of(port)) as client:
        if not stream:
            with pytest.raises(openai.InternalServerError):
                client.chat.completions.create(model="echo", messages=TURNS)
            return
        texts: list[str] = []
        chunks = client.chat.completions.create(model="echo", messages=TURNS, stream=True)
        with pytest.raises(openai.APIError) as broken:
            texts.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert broken.value.code == "runner_lost"


def test_a_refused_stream_has_its_status() -> None:
    long = EchoPort(frames=[Failure(ContextLengthExceeded("long", n_ctx=8).frame())])
    with Served(app_of(long)) as client, pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="echo", messages=TURNS, stream=True)
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["n_ctx"] == 8


@asynccontextmanager
async def served_here(app: App) -> AsyncIterator[int]:
    """The app on this test's own loop, so that the test can watch its port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, ws="none"))
    serving = asyncio.create_task(server._serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving
        listener.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_dropped_connection_cancels_the_work(stream: bool) -> None:
    port = EchoPort(gate=asyncio.Event())
    async with served_here(app_of(port)) as number:
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{number}/v1", api_key=KEY, max_retries=0
        ) as client:
            create = client.chat.completions.create
            if stream:
                asking: asyncio.Task[Any] = asyncio.create_task(
                    create(model="echo", messages=TURNS, stream=True)
                )
                await port.until_opened()
                await (await asking).close()
            else:
                asking = asyncio.create_task(create(model="echo", messages=TURNS))
                await port.until_opened()
                asking.cancel()
            await port.until_closed()
    assert port.opened == port.closed == 1


async def test_a_body_over_the_limit_is_refused_on_the_socket() -> None:
    async with served_here(app_of(body_limit=1000)) as number:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(
            b"POST /chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"400\r\n"
            + b"x" * 1024
            + b"\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        writer.close()
