"""Every door is the same house: equal texts, usage and errors over HTTP and gRPC, both ways."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
from hostile_servers import WAYS, ask, streamed
from open_llm_client import BodyTooLarge, Client, OpenLLMError, create
from running import HANG_S

import open_llm_server

pytestmark = pytest.mark.server
DOORS = ("http", "grpc")
GREEDY = {"temperature": 0.0, "max_tokens": 12, "seed": 1}
LONG = "many words and more of them " * 2000
CHATS: list[dict[str, Any]] = [
    {"prompt": "Hello", **GREEDY},
    {"prompt": "Hello", **GREEDY, "stop_sequence": "!"},
    {"prompt": "Hello", **GREEDY, "stop_sequence": ["can", "help"], "repetition_penalty": 1.1},
    {"prompt": "Grüße, 世界 🌞\n\x00", **GREEDY, "frequency_penalty": 0.5, "top_k": 0},
    {"prompt": "Hello", "model": "echo", **GREEDY, "stop_sequence": []},
    {"prompt": "", **GREEDY},
    {"prompt": "Hello", **GREEDY, "max_tokens": 0},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "How are you?"},
        ],
        **GREEDY,
    },
]
COMPLETIONS: list[dict[str, Any]] = [
    {"prompt": "My name is", **GREEDY},
    {"prompt": "My name is", **GREEDY, "n": 3},
    {"prompt": "One two", "model": "echo", "n": 2, **GREEDY},
]
EMBEDS: list[Any] = ["Hello", ["Hello", "soup is my favorite food"], [5, 6, 7], [[5, 6], [7]]]
BAD: list[tuple[str, dict[str, Any]]] = [
    ("chat", {}),
    ("chat", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}),
    ("chat", {"messages": []}),
    ("chat", {"messages": [{"role": "robot", "content": "a"}]}),
    ("chat", {"messages": [{"role": "tool", "content": "a"}]}),
    ("chat", {"prompt": "a", "model": "nobody"}),
    ("chat", {"prompt": "a", "model": ""}),
    ("chat", {"prompt": "a\ud800"}),
    ("chat", {"prompt": LONG}),
    ("chat", {"messages": [{"role": "user", "content": LONG}]}),
    ("chat", {"prompt": "a", "temperature": -1}),
    ("chat", {"prompt": "a", "temperature": 2.5}),
    ("chat", {"prompt": "a", "temperature": float("nan")}),
    ("chat", {"prompt": "a", "temperature": float("inf")}),
    ("chat", {"prompt": "a", "top_k": -1}),
    ("chat", {"prompt": "a", "top_k": 2**40}),
    ("chat", {"prompt": "a", "top_p": 1.5}),
    ("chat", {"prompt": "a", "min_p": -0.5}),
    ("chat", {"prompt": "a", "max_tokens": -1}),
    ("chat", {"prompt": "a", "seed": 2**63}),
    ("chat", {"prompt": "a", "num_beams": 4}),
    ("chat", {"prompt": "a", "num_beams": 0}),
    ("chat", {"prompt": "a", "repetition_penalty": 0.0}),
    ("chat", {"prompt": "a", "stop_sequence": ""}),
    ("chat", {"prompt": "a", "stop_sequence": ["x"] * 17}),
    ("chat", {"prompt": "a", "stop_sequence": ["x", "y" * 257]}),
    ("complete", {"prompt": "a", "n": 0}),
    ("complete", {"prompt": "a", "n": 1000}),
    ("complete", {"prompt": LONG}),
    ("embed", {"input": []}),
    ("embed", {"input": [[]]}),
    ("embed", {"input": [-1]}),
    ("embed", {"input": [10**9]}),
    ("embed", {"input": LONG}),
    ("embed", {"input": ["a"] * 3000}),
]


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, Client]]:
    """By the name of the door."""
    with open_llm_server.start(["tiny", "echo=fake"], port=0, grpc_port=0, wait_s=HANG_S) as server:
        assert server.grpc_url
        with create(server.url) as http, create(server.grpc_url) as grpc:
            yield {"http": http, "grpc": grpc}


def plain(answer: Any) -> dict[str, Any]:
    """Without what differs from call to call: the id, and what was cached by earlier ones."""
    return {
        **answer,
        "id": "",
        "usage": {
            name: value for name, value in dict(answer.usage).items() if "cached" not in name
        },
    }


FACTS = ("code", "status", "param", "extra", "may_repeat")


def named(call: str, fields: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The first argument, and the rest."""
    rest = {**fields}
    return rest.pop("input" if call == "embed" else "prompt", None), rest


def failure(
    way: str, client: Client, call: str, fields: dict[str, Any], *, stream: bool = False
) -> dict[str, Any]:
    first, rest = named(call, fields)
    with pytest.raises(OpenLLMError) as raised:
        (streamed if stream else ask)(way, client, call, first, **rest)
    facts = {name: getattr(raised.value, name) for name in FACTS}
    return {"class": type(raised.value), "text": str(raised.value), **facts}


@pytest.mark.parametrize("fields", CHATS)
def test_chats_are_equal(clients: dict[str, Client], fields: dict[str, Any]) -> None:
    answers = []
    for door, way in itertools.product(DOORS, WAYS):
        first, rest = named("chat", fields)
        whole = ask(way, clients[door], "chat", first, **rest)
        deltas, stream = streamed(way, clients[door], "chat", first, **rest)
        assert "".join(delta.text for delta in deltas) == stream.text == whole.message
        answers += [plain(whole), plain(stream.answer)]
    assert all(answer == answers[0] for answer in answers), answers


def test_configurations_have_the_same_names(clients: dict[str, Client]) -> None:
    for call in ("chat", "complete"):
        known = [
            ask(way, clients[door], call, "Hello", model="echo", seed=7).configuration
            for door, way in itertools.product(DOORS, WAYS)
        ]
        known += [
            streamed(way, clients[door], call, "Hello", model="echo", seed=7)[1].configuration
            for door, way in itertools.product(DOORS, WAYS)
        ]
        assert all(each == known[0] for each in known), known
        assert known[0]["max_tokens"] is None and "prompt" in known[0]


@pytest.mark.parametrize("fields", COMPLETIONS)
def test_completions_are_equal(clients: dict[str, Client], fields: dict[str, Any]) -> None:
    answers = []
    for door, way in itertools.product(DOORS, WAYS):
        first, rest = named("complete", fields)
        whole = ask(way, clients[door], "complete", first, **rest)
        deltas, stream = streamed(way, clients[door], "complete", first, **rest)
        assert stream.texts == stream.choices == whole.choices
        assert len(whole) == fields.get("n", 1) and {delta.index for delta in deltas} <= {0, 1, 2}
        answers += [plain(whole), plain(stream.answer)]
    assert all(answer == answers[0] for answer in answers), answers


@pytest.mark.parametrize("input", EMBEDS)
def test_embeddings_are_equal(clients: dict[str, Client], input: Any) -> None:
    answers = [
        ask(way, clients[door], "embed", input, model="tiny")
        for door, way in itertools.product(DOORS, WAYS)
    ]
    for answer in answers:
        numpy.testing.assert_allclose(answer.array, answers[0].array, rtol=1e-6, atol=1e-7)
        assert plain(answer) | {"embeddings": []} == plain(answers[0]) | {"embeddings": []}


@pytest.mark.parametrize(("call", "fields"), BAD)
def test_errors_are_equal(clients: dict[str, Client], call: str, fields: dict[str, Any]) -> None:
    failures = [
        failure(way, clients[door], call, fields) for door, way in itertools.product(DOORS, WAYS)
    ]
    assert all(told == failures[0] for told in failures), failures
    assert failures[0]["text"] and failures[0]["status"] in (400, 404, 413)


@pytest.mark.parametrize(("call", "fields"), [each for each in BAD if each[0] != "embed"])
def test_streams_are_refused_alike(
    clients: dict[str, Client], call: str, fields: dict[str, Any]
) -> None:
    whole = failure("threads", clients["http"], call, fields)
    for door, way in itertools.product(DOORS, WAYS):
        assert failure(way, clients[door], call, fields, stream=True) == whole


def test_requests_that_are_too_large(clients: dict[str, Client]) -> None:
    for door, way in itertools.product(DOORS, WAYS):
        told = failure(way, clients[door], "chat", {"prompt": "a" * 3_000_000})
        assert (told["class"], told["code"], told["status"]) == (
            BodyTooLarge,
            "body_too_large",
            413,
        )


def test_models_and_health_are_equal(clients: dict[str, Client]) -> None:
    both = [*itertools.product(DOORS, WAYS)]
    models = [ask(way, clients[door], "models") for door, way in both]
    health = [ask(way, clients[door], "health") for door, way in both]
    assert all(each == models[0] for each in models) and len(models[0]) == 2
    assert all(each == health[0] for each in health)
    assert health[0].models == {"tiny": "ready", "echo": "ready"}


@pytest.mark.parametrize("door", DOORS)
def test_a_request_has_the_id_it_was_given(clients: dict[str, Client], door: str) -> None:
    assert clients[door].chat("Hello", model="echo", request_id="mine-1").id == "mine-1"
    with pytest.raises(OpenLLMError) as raised:
        clients[door].chat("Hello", model="nobody", request_id="mine-2")
    assert raised.value.request_id == "mine-2"
