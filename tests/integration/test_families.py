"""All families on one server at the same time, and a killed one that costs the others nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import checkpoints
import httpx
import pytest
import torch
from running import HANG_S, Running
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from open_llm_server.serving import start

pytestmark = [pytest.mark.server, pytest.mark.weights]

MAKERS: dict[str, Callable[[Path], Path]] = {
    "flan-t5": checkpoints.make_t5,
    "bloom": checkpoints.make_bloom,
    "dolly": checkpoints.make_dolly,
    "stablelm": checkpoints.make_stablelm,
}
MODELS = (*MAKERS, "tiny")
NEW_TOKENS = 12
TEXTS = (
    "Hello, how are you?",
    "soup 🍜 is good, 天気 too",
    "Translate to German: the quick brown fox jumps over the lazy dog",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: make(root / name) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def running(folders: dict[str, Path]) -> Iterator[Running]:
    models = ",".join([*(f"{name}@{path}" for name, path in folders.items()), "tiny"])
    with start(models, port=0, dtype="float32", threads=1, wait_s=2 * HANG_S) as server:
        yield Running(server)


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> dict[tuple[str, str], str]:
    """What transformers' own greedy search continues each text with."""
    found = {}
    for name, folder in folders.items():
        encodes = name == "flan-t5"
        loader: Any = AutoModelForSeq2SeqLM if encodes else AutoModelForCausalLM
        model: Any = loader.from_pretrained(folder, dtype=torch.float32)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ends = [model.config.eos_token_id]
        if name == "dolly":  # its end key, which generate knows nothing of
            ends.append(tokenizer.token_to_id("### End"))
        for text in TEXTS:
            ids = torch.tensor([tokenizer.encode(text).ids])
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=ends,
            )[0]
            new = output[1:] if encodes else output[ids.shape[1] :]
            found[name, text] = tokenizer.decode(new.tolist())
    return found


def ask(running: Running, route: str, body: dict[str, Any]) -> dict[str, Any]:
    response = httpx.post(f"{running.url}{route}", json=body, timeout=HANG_S)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def completed(running: Running, name: str, text: str) -> str:
    body = {"model": name, "prompt": text, "temperature": 0, "max_tokens": NEW_TOKENS}
    (choice,) = ask(running, "/complete", body)["choices"]
    assert isinstance(choice, str)
    return choice


def test_every_route_of_every_family_at_the_same_time(running: Running) -> None:
    def chat(name: str) -> None:
        answer = ask(running, "/chat", {"model": name, "prompt": TEXTS[0], "max_tokens": 8})
        assert answer["model"] == name
        assert answer["usage"]["completion_tokens"] > 0

    def openai(name: str) -> None:
        messages = [{"role": "user", "content": TEXTS[1]}]
        body = {"model": name, "messages": messages, "max_tokens": 8}
        answer = ask(running, "/v1/chat/completions", body)
        assert answer["choices"][0]["finish_reason"] in ("stop", "length")

    def embed(name: str) -> None:
        answer = ask(running, "/embed", {"model": name, "input": list(TEXTS)})
        assert (answer["model"], answer["pooling"]) == (name, "mean")
        assert {len(vector) for vector in answer["embeddings"]} == {answer["dimension"]}
        theirs = ask(running, "/v1/embeddings", {"model": name, "input": TEXTS[0]})
        assert theirs["data"][0]["embedding"] == pytest.approx(answer["embeddings"][0], abs=1e-5)

    with ThreadPoolExecutor(16) as pool:
        waits = [pool.submit(call, name) for name in MODELS for call in (chat, openai, embed)]
        for wait in waits:
            wait.result()


def test_greedy_texts_are_those_of_transformers(
    running: Running, expected: dict[tuple[str, str], str]
) -> None:
    wanted = list(expected) * 3
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda key: completed(running, *key), wanted)
        assert list(found) == [expected[key] for key in wanted]


def test_a_killed_family_costs_the_others_nothing(
    running: Running, expected: dict[tuple[str, str], str]
) -> None:
    running.worker("bloom").kill()
    for name in MODELS:
        if name not in ("bloom", "tiny"):
            assert completed(running, name, TEXTS[0]) == expected[name, TEXTS[0]]
    assert running.answered(TEXTS[0], model="bloom", max_tokens=2).status_code == 200


def test_beams_find_more_than_one_answer(running: Running) -> None:
    body = {"model": "flan-t5", "prompt": TEXTS[2], "num_beams": 3, "n": 2, "max_tokens": 8}
    answer = ask(running, "/complete", body)
    assert len(set(answer["choices"])) == 2
    assert ask(running, "/complete", body)["choices"] == answer["choices"]
