"""Family `minilm` through the real server: which model made a vector, how, and what it refuses."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from checkpoints import make_bert, real_minilm
from running import HANG_S, Running, StartServer
from transformers import AutoModel, AutoTokenizer

from open_llm_server.serving import start

pytestmark = [pytest.mark.server, pytest.mark.weights]

TEXTS = ("A man is eating food.", "The girl is carrying a baby.", "Grüße, 你好 😀")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder that pools by its first token, as its files say."""
    folder = make_bert(tmp_path_factory.mktemp("minilm") / "model")
    steps = [
        {"path": path, "type": f"sentence_transformers.models.{name}"}
        for name, path in (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2"))
    ]
    (folder / "modules.json").write_text(json.dumps(steps))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 100}')
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    with start(f"minilm@{folder},fake", port=0, wait_s=HANG_S) as server:
        yield Running(server)


def post(running: Running, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{running.url}{path}", json=body, timeout=HANG_S)


@torch.no_grad()
def expected(folder: Path, text: str) -> list[float]:
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    state = AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state[0, 0]
    vector: list[float] = torch.nn.functional.normalize(state, dim=0).tolist()
    return vector


def test_embed_names_model_dimension_and_pooling(running: Running, folder: Path) -> None:
    response = post(running, "/embed", model="minilm", input=TEXTS)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["model"], answer["dimension"], answer["pooling"]) == ("minilm", 64, "cls")
    for text, vector in zip(TEXTS, answer["embeddings"], strict=True):
        assert vector == pytest.approx(expected(folder, text), abs=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert answer["usage"]["prompt_tokens"] == sum(map(len, tokenizer([*TEXTS])["input_ids"]))


def test_the_list_of_models_says_that_it_only_embeds(running: Running) -> None:
    listed = httpx.get(f"{running.url}/v1/models", timeout=HANG_S).json()["data"]
    can = {model["id"]: model["capabilities"] for model in listed}
    assert can == {"minilm": ["embedding"], "fake": ["chat", "completion", "embedding"]}


def test_openais_route_gives_the_same_vectors(running: Running) -> None:
    native = post(running, "/embed", model="minilm", input=TEXTS).json()
    answer = post(running, "/v1/embeddings", model="minilm", input=TEXTS).json()
    assert answer["model"] == "minilm"
    assert [item["embedding"] for item in answer["data"]] == native["embeddings"]
    other = post(running, "/v1/embeddings", model="fake", input=TEXTS).json()
    assert other["model"] == "fake"
    assert len(other["data"][0]["embedding"]) != native["dimension"]


def test_many_at_once_are_as_alone(running: Running) -> None:
    def embed(text: str) -> list[float]:
        response = post(running, "/embed", model="minilm", input=text)
        assert response.status_code == 200, response.text
        vector: list[float] = response.json()["embeddings"][0]
        return vector

    texts = [f"{text} {number}" for text in TEXTS for number in range(4)]
    alone = [embed(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(embed, texts))
    # Sums over other inputs' rows may round in another order.
    for vector, same in zip(together, alone, strict=True):
        assert vector == pytest.approx(same, abs=1e-5)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat", {"prompt": "Hello"}),
        ("/chat-sse", {"prompt": "Hello"}),
        ("/complete", {"prompt": "Hello"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ("/v1/completions", {"prompt": "Hello"}),
    ],
)
def test_it_says_that_it_writes_no_answers(
    running: Running, path: str, body: dict[str, Any]
) -> None:
    response = post(running, path, model="minilm", **body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("not_supported", "model")
    assert "/embed" in error["message"]


def test_long_inputs_are_refused_and_never_cut(running: Running) -> None:
    response = post(running, "/embed", model="minilm", input=["fine", "a " * 99])
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input.1")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (101, 100)
    fits = post(running, "/embed", model="minilm", input="a " * 98)
    assert fits.json()["usage"]["prompt_tokens"] == 100


def test_the_real_model(server: StartServer) -> None:
    running = server(f"minilm@{real_minilm()}")
    texts = ("A man is eating food.", "A man is eating bread.", "The market fell by two percent.")
    answer = post(running, "/embed", input=texts).json()
    assert (answer["model"], answer["dimension"], answer["pooling"]) == ("minilm", 384, "mean")
    one, near, far = answer["embeddings"]
    assert sum(map(operator.mul, one, near)) > 0.6 > 0.3 > sum(map(operator.mul, one, far))
