"""Answers as values: how they print, index and compare; and the same call over a plain server."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy
import pytest
from hostile_servers import ANSWERS, COMPLETE, EMBED, WAYS, always, ask, http, talking_to
from open_llm_client import (
    ChatAnswer,
    CompleteAnswer,
    Delta,
    EmbedAnswer,
    Health,
    Model,
    Usage,
)

USAGE = Usage(1, 2, 3, 0)


@pytest.fixture
def embedded() -> EmbedAnswer:
    return EmbedAnswer([[0.5, 1.0], [0.25, -1.5]], 2, "mean", USAGE, "one", "abc")


def test_a_chat_answer_is_its_message() -> None:
    answer = ChatAnswer("Hello", "stop", {"top_k": 3}, USAGE, "one", "abc")
    assert str(answer) == answer.message == answer["message"] == "Hello"
    assert answer["usage"].total_tokens == answer["usage"]["total_tokens"] == 3
    assert dict(answer)["configuration"] == {"top_k": 3}
    assert "Hello" in repr(answer)
    assert pickle.loads(pickle.dumps(answer)) == answer
    with pytest.raises(KeyError, match="finish_reason"):
        answer["text"]
    assert "message" in answer and "text" not in answer and 0 not in answer
    assert [*answer] == answer.keys() and next(iter(USAGE)) == "prompt_tokens"


def test_a_complete_answer_is_its_choices() -> None:
    answer = CompleteAnswer(["a", "b"], ["stop", "length"], {}, USAGE, "one", "abc")
    assert answer[0] == "a" and answer[-1:] == ["b"] and answer["choices"] == ["a", "b"]
    assert len(answer) == 2 and [*answer] == ["a", "b"]
    assert "a" in answer and "choices" not in answer
    assert str(answer) == "a\nb"
    assert str(CompleteAnswer(["a"], ["stop"], {}, USAGE, "one", "abc")) == "a"


def test_an_embed_answer_is_its_vectors(embedded: EmbedAnswer) -> None:
    assert embedded[0][1] == 1.0 and len(embedded) == 2 and [*embedded] == embedded.embeddings
    assert embedded == [[0.5, 1.0], [0.25, -1.5]] and embedded[1:] == [[0.25, -1.5]]
    assert [0.5, 1.0] in embedded and [0.5] not in embedded
    assert embedded["dimension"] == embedded.dimension == 2
    assert embedded == pickle.loads(pickle.dumps(embedded))
    assert "dimension 2" in repr(embedded) and "0.25" not in repr(embedded)


def test_an_embed_answer_as_an_array(
    embedded: EmbedAnswer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert embedded.array.dtype == numpy.float32 and embedded.array.shape == (2, 2)
    assert (numpy.asarray(embedded) == embedded.array).all()
    assert numpy.array(embedded, dtype=numpy.float64).dtype == numpy.float64
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ImportError, match="pip install numpy"):
        _ = embedded.array


def test_what_else_prints() -> None:
    model = Model("one", "fake", "ready", [], 512, ["chat", "embedding"], 8)
    assert str(model) == "one (fake): ready, context 512, chat embedding"
    health = Health("not_ready", {"one": "loading"})
    assert not health and not health.ready and str(health) == "not_ready (one loading)"
    assert Health("ready") and str(Health("ready")) == "ready"
    assert str(Delta("text", 1)) == "text"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("call", ANSWERS)
def test_several_answers_on_one_connection(way: str, call: str) -> None:
    with talking_to(always(http(ANSWERS[call]))) as (server, client):
        answers = [ask("threads", client, call) for _ in range(3)]
        assert len(server.peers) == 1
        assert all(answer == answers[0] for answer in answers)
        assert ask(way, client, call) == answers[0]


@pytest.mark.parametrize("way", WAYS)
def test_unknown_fields_are_passed_over(way: str) -> None:
    for call, body in ANSWERS.items():
        newer: dict[str, Any] = {**body, "later": {"more": [1]}}
        if "usage" in newer:
            newer["usage"] = {**body["usage"], "seconds": 0.5}
        with talking_to(always(http(newer))) as (_, client):
            assert ask(way, client, call)


def test_the_values_are_those_sent() -> None:
    with talking_to(always(http(COMPLETE))) as (_, client):
        answer = client.complete("Hello", n=2)
        assert answer.choices == ["a", "b"] and answer.finish_reasons == ["stop", "length"]
        assert answer.usage == USAGE and answer.configuration == {"temperature": 0.5}
    with talking_to(always(http(EMBED))) as (_, client):
        assert client.embed(["a", "b"]) == EMBED["embeddings"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", ["not_ready", "draining"])
def test_a_server_that_is_not_ready_is_an_answer(way: str, status: str) -> None:
    body = http({"status": status, "models": {"one": "loading"}}, status=503, retry_after=1)
    with talking_to(always(body), retries=2) as (_, client):
        health = ask(way, client, "health")
        assert health.status == status and not health
