"""gRPC of a real server: the same answers as over HTTP, dropped calls, killed workers."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import psutil
import pytest
from rpc_calls import GENERATING, STREAMS
from rpc_clients import Client, address_of, connected, text_of
from running import HANG_S, Running, StartServer

from open_llm_server.rpc import v1
from open_llm_server.serving import start

pytestmark = pytest.mark.server
GREEDY = v1.Sampling(temperature=0)
KEY = "key-for-this-test"
CALLS = 1000
EXPECTED = (
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
"""How calls end that are dropped; a queue that is full is no fault."""


@pytest.fixture(scope="module")
def both() -> Iterator[Running]:
    """HTTP and gRPC, a model with weights and one without."""
    with start(
        ["tiny", "fake"], port=0, grpc_port=0, api_key=KEY, sets=["fake.slots=8"], wait_s=HANG_S
    ) as running:
        yield Running(running)


class Keyed(Client):
    def call(self, name: str, request: Any = None, **options: Any) -> Any:
        metadata = (("authorization", f"Bearer {KEY}"),)
        return super().call(name, request, **{"metadata": metadata, **options})


@pytest.fixture
def client(both: Running) -> Iterator[Keyed]:
    with connected(both) as plain:
        yield Keyed(plain.channel)


def http(running: Running, path: str, body: dict[str, Any] | None = None) -> Any:
    method = "POST" if body else "GET"
    headers = {"authorization": f"Bearer {KEY}"}
    url = f"{running.url}{path}"
    response = httpx.request(method, url, json=body, headers=headers, timeout=HANG_S)
    assert response.status_code == 200, response.text
    return response.json() if path != "/metrics" else response.text


def usage_of(told: v1.Usage) -> dict[str, int]:
    return {field.name: getattr(told, field.name) for field in told.DESCRIPTOR.fields}


def without_cache(usage: dict[str, int]) -> dict[str, int]:
    """What was evaluated before depends on who asked before."""
    return {name: value for name, value in usage.items() if name != "cached_tokens"}


@pytest.mark.parametrize("model", ["tiny", "fake"])
def test_answers_are_those_of_http(both: Running, client: Keyed, model: str) -> None:
    body = {"model": model, "prompt": "Hello", "temperature": 0, "max_tokens": 8}
    sampling = v1.Sampling(temperature=0, max_tokens=8)
    expected = http(both, "/chat", body)
    request = v1.ChatRequest(model=model, prompt="Hello", sampling=sampling)
    chat = client.call("Chat", request)
    assert (chat.model, chat.message) == (model, expected["message"])
    assert without_cache(usage_of(chat.usage)) == without_cache(expected["usage"])
    reason = v1.FinishReason.Name(chat.finish_reason)
    assert reason == f"FINISH_REASON_{expected['finish_reason'].upper()}"
    assert text_of(client.call("ChatStream", request)) == expected["message"]
    expected = http(both, "/complete", body | {"n": 2})
    more = v1.CompleteRequest(model=model, prompt="Hello", sampling=sampling, n=2)
    assert [*client.call("Complete", more).choices] == expected["choices"]
    one = v1.CompleteRequest(model=model, prompt="Hello", sampling=sampling)
    assert text_of(client.call("CompleteStream", one)) == expected["choices"][0]


def test_vectors_and_models_are_those_of_http(both: Running, client: Keyed) -> None:
    texts = ["one", "two é"]
    expected = http(both, "/embed", {"input": texts})
    items = [v1.EmbedInput(text=text) for text in texts]
    embed = client.call("Embed", v1.EmbedRequest(input=items))
    vectors = [[*vector.values] for vector in embed.embeddings]
    assert vectors == [pytest.approx(one, abs=1e-6) for one in expected["embeddings"]]
    assert (embed.dimension, embed.pooling) == (expected["dimension"], expected["pooling"])
    assert usage_of(embed.usage) == expected["usage"]
    listed = client.call("ListModels").models
    for model, told in zip(listed, http(both, "/v1/models")["data"], strict=True):
        assert (model.id, model.family, model.status) == (told["id"], told["family"], "ready")
        assert (model.context_length, [*model.capabilities]) == (
            told["context_length"],
            told["capabilities"],
        )


def test_no_key_no_answer(both: Running) -> None:
    with connected(both) as client:
        for name in GENERATING:
            assert client.refusal(name).code == "invalid_api_key"


def test_nothing_is_left_of_dropped_calls(both: Running, client: Keyed) -> None:
    chance = random.Random(7)
    plans = [
        (chance.choice(GENERATING), chance.randrange(6), chance.random() * 0.03)
        for _ in range(CALLS)
    ]
    with ThreadPoolExecutor(50) as threads:
        for done in [threads.submit(drop, client, *plan) for plan in plans]:
            done.result(HANG_S)
    deadline = time.monotonic() + HANG_S
    while not idle(http(both, "/metrics")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert client.call("Chat", v1.ChatRequest(model="fake", prompt="Hello")).message
    text = http(both, "/metrics")
    assert 'code="CANCELLED"' in text
    for fault in ("INTERNAL", "UNKNOWN"):
        assert f'code="{fault}"' not in text


def drop(client: Keyed, name: str, events: int, after_s: float) -> None:
    """Leaves a call after some of its events, or some time."""
    kind = v1.ChatRequest if name.startswith("Chat") else v1.CompleteRequest
    request: Any = kind(model="fake", prompt="Hello")
    try:
        if name in STREAMS:
            call = client.call(name, request)
            for _ in zip(range(events), call, strict=False):
                pass
            call.cancel()
        else:
            client.call(name, request, timeout=after_s)
    except grpc.RpcError as error:
        if error.code() not in EXPECTED:
            raise


def idle(metrics: str) -> bool:
    found = re.findall(
        r'^open_llm_requests_(?:running|waiting)\{model="fake"\} (.*)$', metrics, re.M
    )
    assert len(found) == 2
    return set(map(float, found)) == {0.0}


# -- processes ---------------------------------------------------------------------------------


def test_a_killed_api_worker_is_replaced_at_the_same_port(server: StartServer) -> None:
    running = server("fake", grpc_port=0)
    address = address_of(running)
    with connected(running) as client:
        expected = client.call("Chat").message
        first = running.worker("api")
        first.kill()
        psutil.wait_procs([first], timeout=HANG_S)
        assert client.answered("Chat").message == expected
        assert running.worker("api").pid != first.pid
        assert address_of(running) == address


def test_only_the_configured_ports_listen(server: StartServer) -> None:
    running = server("fake", grpc_port=0, api_workers=2)
    with connected(running) as client:
        client.call("Chat")
    port = int(address_of(running).rpartition(":")[2])
    listening = {
        (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for process in (running.supervisor, *running.descendants())
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or connection.type.name == "SOCK_DGRAM"
    }
    assert listening == {("127.0.0.1", running.port), ("127.0.0.1", port)}


def test_grpc_on_the_main_port(server: StartServer, capfd: pytest.CaptureFixture[str]) -> None:
    running = server("fake", grpc=True, port=0)
    with connected(running) as client:
        assert client.call("Chat").message
        assert text_of(client.call("ChatStream"))
    for path in ("/livez", "/readyz", "/metrics"):
        assert httpx.get(f"{running.url}{path}", timeout=HANG_S).status_code == 200
    for path in ("/", "/v1/models", "/openapi.json", "/nothing"):
        refused = httpx.get(f"{running.url}{path}", timeout=HANG_S)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "route_not_found")
        assert "gRPC" in refused.json()["error"]["message"]
    refused = httpx.post(f"{running.url}/chat", json={"prompt": "x"}, timeout=HANG_S)
    assert refused.status_code == 404
    assert "/livez, /readyz, /metrics" in refused.json()["error"]["message"]
    running.server.stop()
    said = capfd.readouterr().err
    assert f"Open LLM server on {running.server.grpc_url} (probes: {running.url})" in said


def test_both_addresses_are_announced(
    server: StartServer, capfd: pytest.CaptureFixture[str]
) -> None:
    running = server("fake", grpc_port=0)
    running.server.stop()
    said = capfd.readouterr().err
    assert f"Open LLM server on {running.url} and {running.server.grpc_url}" in said


# -- draining ----------------------------------------------------------------------------------


def test_an_open_stream_ends_whole_and_new_calls_hear_of_the_drain(server: StartServer) -> None:
    running = server("fake", grpc_port=0, sets=["fake.step_s=0.1"])
    with connected(running) as client, connected(running) as other:
        expected = text_of(client.call("ChatStream"))
        stream = client.call("ChatStream")
        events = [next(stream)]
        watch = threading.Thread(target=events.extend, args=(stream,))
        watch.start()
        running.supervisor.terminate()
        codes = set()
        while watch.is_alive():
            try:
                other.call("Chat", v1.ChatRequest(prompt="x", sampling=v1.Sampling(max_tokens=1)))
            except grpc.RpcError as error:
                codes.add(error_code(error))
        watch.join(HANG_S)
    assert text_of(events) == expected
    assert "draining" in codes
    assert running.server._popen.wait(HANG_S) == 0


def error_code(error: Any) -> str:
    """The code; a connection that was closed by the server's end has none, nor has a call that
    came in that very moment, which grpc itself cancels."""
    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    details = dict(error.trailing_metadata() or ())
    return "draining" if b"DRAINING" in details.get("grpc-status-details-bin", b"") else ""


@pytest.mark.parametrize("name", ["Chat", "ChatStream"])
def test_the_drain_limit_cuts_and_says_so(server: StartServer, name: str) -> None:
    sets = ["fake.step_s=0.05", "fake.reply_tokens=1000000"]
    running = server("fake", grpc_port=0, sets=sets, drain_timeout_s=0.2)
    with connected(running) as client, ThreadPoolExecutor() as threads:
        ended = threads.submit(client.refusal, name)
        deadline = time.monotonic() + HANG_S
        while idle(httpx.get(f"{running.url}/metrics", timeout=HANG_S).text):
            assert time.monotonic() < deadline
        running.supervisor.terminate()
        refusal = ended.result(HANG_S)
    assert (refusal.code, bool(refusal.retry_after_s)) == ("draining", True)
    assert running.server._popen.wait(HANG_S) == 0
