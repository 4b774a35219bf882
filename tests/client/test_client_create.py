"""What `create` takes, what the environment says, and that no text shows a key."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile_servers import CHAT, EMBED, Peer, always, http, saying, talking_to
from open_llm_client import InvalidField, OpenLLMError, create

KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPEN_LLM_ENDPOINT", "OPEN_LLM_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, open_llm_client\n"
        "open_llm_client.create('grpc://127.0.0.1:1'); open_llm_client.create()\n"
        "heavy = {'httpx', 'grpc', 'google.protobuf', 'numpy', 'pydantic', 'asyncio', 'ssl',\n"
        "         'open_llm_server', 'bentoml', 'torch', 'urllib.request'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    assert create().url == "http://127.0.0.1:5000"
    assert repr(create("http://host:1/llm/")) == "Client('http://host:1/llm')"
    monkeypatch.setenv("OPEN_LLM_ENDPOINT", "https://named.example")
    assert create().url == "https://named.example"
    assert create("grpc://[::1]:7").url == "grpc://[::1]:7"


def test_the_path_of_a_url_comes_first() -> None:
    seen: list[bytes] = []

    def behave(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            seen.append(request)
            peer.send(http(CHAT))

    with talking_to(behave) as (server, _), create(server.url + "/llm/") as client:
        client.chat("Hello")
    assert seen[0].startswith(b"POST /llm/chat ")


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def behave(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            seen.append(request.lower())
            peer.send(http(CHAT))

    with talking_to(behave) as (server, _):
        monkeypatch.setenv("OPEN_LLM_ENDPOINT", server.url)
        monkeypatch.setenv("OPEN_LLM_API_KEY", "from-environment")
        # Nothing on this machine is asked for through a proxy.
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        for client in (create(), create(api_key="given"), create(api_key="")):
            with client:
                client.chat("Hello")
    assert b"authorization: bearer from-environment" in seen[0]
    assert b"authorization: bearer given" in seen[1]
    assert b"authorization" not in seen[2]


def test_a_proxy_for_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def behave(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            seen.append(request)
            peer.send(http(CHAT))

    with talking_to(behave) as (proxy, _):
        monkeypatch.setenv("http_proxy", proxy.url)
        with create("http://model.invalid:8000", retries=0) as client:
            assert str(client.chat("Hello")) == "Hello you"
            assert str(asyncio.run(client.async_chat("Hello"))) == "Hello you"
        monkeypatch.setenv("no_proxy", "model.invalid")
        with create("http://model.invalid:8000", retries=0) as client:
            with pytest.raises(OpenLLMError, match="cannot reach"):
                client.chat("Hello")
    assert len(seen) == 2 and seen[0].startswith(b"POST http://model.invalid:8000/chat ")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:5000",
        "ftp://host",
        "http://",
        "http://host:0",
        "http://host:99999",
        "http://host:x",
        "http://ho st",
        "http://host/?key=" + KEY,
        "http://host/#part",
        f"http://user:{KEY}@host",
        "grpc://host/path",
        "http://host\n",
        "http://[::1",
        "http://x..y",
        "http://999.1.1.1",
        "http://" + "a" * 64,
        "grpc://" + "a." * 150 + "b",
        "http://a<b",
        "http://host/" + "a" * 3000,
    ],
)
def test_urls_that_cannot_be(url: str) -> None:
    with pytest.raises(ValueError, match="url: ") as raised:
        create(url)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"api_key": KEY + "\n"}, "api_key"),
        ({"api_key": KEY + " x"}, "api_key"),
        ({"api_key": KEY + "é"}, "api_key"),
        ({"headers": {"x y": KEY}}, "headers"),
        ({"headers": {"x": KEY + "\r\ny: z"}}, "headers.*'x'"),
        ({"headers": {"x": " padded"}}, "headers.*'x'"),
        ({"headers": {"x": "padded "}}, "headers.*'x'"),
        ({"headers": {"x": "a\x00b"}}, "headers.*'x'"),
        ({"headers": {"x-Bin": "a"}}, "headers.*'x-Bin'"),
        ({"headers": {"x!": "a"}}, "headers.*'x!'"),
        ({"headers": {"": "a"}}, "headers: ''"),
        ({"headers": {"Content-Length": "7"}}, "headers: 'Content-Length'"),
        ({"headers": {"transfer-encoding": "chunked"}}, "headers: 'transfer-encoding'"),
        ({"headers": {"Host": "other"}}, "headers: 'Host'"),
        ({"headers": {"connection": "close"}}, "headers: 'connection'"),
        ({"headers": {"grpc-timeout": "1S"}}, "headers: 'grpc-timeout'"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1.0}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": 1e9}, "timeout"),
        ({"retries": -1}, "retries"),
        ({"retries": 1.5}, "retries"),
        ({"verify": "/nowhere/ca.pem"}, r"verify.*ca\.pem"),
    ],
)
def test_values_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        create("http://127.0.0.1:1", **options)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": 5}, "url: .* not int"),
        ({"url": b"http://host"}, "url: .* not bytes"),
        ({"api_key": 5}, "api_key: .* not int"),
        ({"headers": "x: y"}, "headers: .* not str"),
        ({"headers": {"x": 5}}, "headers: .*'x'"),
        ({"headers": {5: "x"}}, "headers: .*5"),
        ({"verify": None}, "verify: .* not NoneType"),
        ({"verify": 1}, "verify: .* not int"),
        ({"model": 5}, "model: .* not int"),
    ],
)
def test_types_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        create(**{"url": "http://127.0.0.1:1", **options})


def test_headers_that_can_be() -> None:
    seen: list[bytes] = []

    def behave(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            seen.append(request)
            peer.send(http(CHAT))

    headers = {"X-Gateway_1": "a b", "x.empty": "", "Cookie": "a=b; c=d"}
    with talking_to(behave, headers=headers) as (_, client):
        client.chat("Hello")
    for line in (b"x-gateway_1: a b\r\n", b"x.empty: \r\n", b"cookie: a=b; c=d\r\n"):
        assert line in seen[0]


def test_grpc_checks_every_certificate() -> None:
    with pytest.raises(ValueError, match=r"verify='ca\.pem'"):
        create("grpcs://host", verify=False)


def test_no_text_shows_the_key() -> None:
    with talking_to(saying(b"nonsense\r\n\r\n"), api_key=KEY) as (_, client):
        assert KEY not in repr(client) + str(vars(client)["_endpoint"])
        with pytest.raises(OpenLLMError) as raised:
            client.chat("Hello")
        assert KEY not in repr(raised.value) + str(raised.value)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": -3}, {"request_id": "a\nb"}])
def test_options_of_a_call_that_cannot_be(options: dict[str, Any]) -> None:
    with talking_to(always(http(EMBED))) as (server, client):
        with pytest.raises(ValueError, match=next(iter(options))):
            client.embed("a", **options)
        with pytest.raises(TypeError, match="timeout"):
            client.embed("a", timeout="3")  # type: ignore[arg-type]  # that is the point
        with pytest.raises(TypeError, match=r"request_id: .* not int"):
            client.embed("a", request_id=5)  # type: ignore[arg-type]  # that is the point
        assert not server.peers


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"stop": "a"}, "did you mean 'stop_sequence'"),
        ({"zzz": "a"}, "there are temperature"),
        ({"temperature": "hot"}, "temperature: want a number, not str"),
        ({"temperature": True}, "temperature: want a number, not bool"),
        ({"top_k": 3.0}, "top_k: want a whole number"),
        ({"top_k": True}, "top_k: want a whole number"),
        ({"stop_sequence": 3}, "stop_sequence: want a text or a list"),
        ({"stop_sequence": ["a", 3]}, r"stop_sequence\.1: want a text"),
        ({"stop_sequence": b"a"}, "stop_sequence: want"),
        ({"prompt": 3}, "prompt: want a text, not int"),
        ({"model": 3}, "model: want a text"),
        ({"messages": "Hello"}, "messages: want a list"),
        ({"messages": 3}, "messages: want a list"),
        ({"messages": ["Hello"]}, r"messages\.0: want"),
        ({"messages": [{"role": "user"}]}, r"messages\.0: want"),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, r"messages\.0: want"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, r"messages\.0\.content: want a text"),
    ],
)
def test_what_cannot_be_sent(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        create("http://127.0.0.1:1").chat(**keywords)


@pytest.mark.parametrize(
    ("call", "keywords", "words"),
    [
        ("chat", {"n": 2}, r"complete\(\) take it"),
        ("complete", {"messages": []}, r"has no keyword 'messages'; chat\(\) take it"),
        ("complete", {"tempratur": 1}, "did you mean 'temperature'"),
        ("conversation", {"stream": True}, r"no keyword 'stream'; chat\(\).* say\(\) take it"),
        ("conversation", {"sytem": "a"}, "did you mean 'system'"),
        ("say", {"messages": []}, r"say\(\) has no keyword 'messages'; chat\(\)"),
        ("say", {"tempratur": 1}, "did you mean 'temperature'"),
    ],
)
def test_keywords_of_other_calls(call: str, keywords: dict[str, Any], words: str) -> None:
    client = create("http://127.0.0.1:1")
    calls: dict[str, Any] = {
        "chat": client.chat,
        "complete": client.complete,
        "conversation": client.conversation,
        "say": client.conversation().say,
    }
    with pytest.raises(TypeError, match=words):
        calls[call]("Hello", **keywords)


@pytest.mark.parametrize("input", [3, None, b"a", {"a": 1}, ["a", 3], [1, "a"], [[1], [None]]])
def test_inputs_that_cannot_be_sent(input: Any) -> None:
    with pytest.raises(TypeError, match="input"):
        create("http://127.0.0.1:1").embed(input)


@pytest.mark.parametrize(
    ("keywords", "param"),
    [
        ({"seed": 2**63}, "seed"),
        ({"temperature": 10**400}, "temperature"),
        ({"prompt": "a\ud800"}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "\udfff"}]}, "messages.0.content"),
    ],
)
def test_values_that_no_transport_can_carry(keywords: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidField, match=param) as raised:
        create("http://127.0.0.1:1").chat(**keywords)
    assert raised.value.param == param


def test_numbers_of_numpy_are_numbers() -> None:
    import json

    import numpy

    seen: list[Any] = []

    def behave(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            seen.append(json.loads(request.partition(b"\r\n\r\n")[2]))
            peer.send(http(EMBED if b"/embed" in request[:20] else CHAT))

    with talking_to(behave) as (_, client):
        numbers: Any = {"temperature": numpy.float32(0.5), "top_k": numpy.int64(3)}
        ids: Any = numpy.array([1, 2])
        client.chat("Hello", **numbers)
        client.embed(ids)
    assert seen[0] == {"prompt": "Hello", "temperature": 0.5, "top_k": 3}
    assert seen[1] == {"input": [[1, 2]]}


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with create("https://127.0.0.1:1", verify=tmp_path / "ca.pem", retries=0) as client:
        with pytest.raises(OpenLLMError, match=r"ca\.pem.*PEM"):
            client.chat("Hello")
