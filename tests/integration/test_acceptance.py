"""The whole server with real weights: what `tiny` says here is what transformers says.

In float32, so that both compute the same: alone, sixteen at once, and after a prefix hit.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from ggufs import TINY, tiny_float32
from openai import OpenAI
from running import HANG_S, Running, StartServer
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.server, pytest.mark.weights]

NEW_TOKENS = 40
QUESTIONS = (
    "Hello, how are you?",
    "Who are you?",
    "Which port does the server listen on?",
    "How do I stream an answer?",
    "What is a GGUF file? Please explain it in a few words, I am new to all of this.",
    "Tell me a joke",
    "thanks",
    "What is the capital of France?",
)


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_float32(tmp_path_factory.mktemp("float32"))


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """What transformers' own greedy search answers."""
    tokenizer: Any = AutoTokenizer.from_pretrained(TINY / "hf")
    model: Any = AutoModelForCausalLM.from_pretrained(TINY / "hf", dtype=torch.float32)
    answers: dict[str, str] = {}
    for question in QUESTIONS:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :]
        answers[question] = tokenizer.decode(new, skip_special_tokens=True)
    return answers


def ask(running: Running, question: str, **fields: Any) -> dict[str, Any]:
    body = {"prompt": question, "temperature": 0, "max_tokens": NEW_TOKENS, **fields}
    response = httpx.post(f"{running.url}/chat", json=body, timeout=HANG_S)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_greedy_answers_are_those_of_transformers(
    server: StartServer, float32: Path, expected: dict[str, str]
) -> None:
    running = server(f"exact=llama@{float32},tiny", slots=16)
    alone = {question: ask(running, question) for question in QUESTIONS}
    assert {question: answer["message"] for question, answer in alone.items()} == expected

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda question: ask(running, question), QUESTIONS * 2))
    assert [answer["message"] for answer in together] == [expected[q] for q in QUESTIONS] * 2

    again = [ask(running, question) for question in QUESTIONS]
    assert [answer["message"] for answer in again] == [expected[q] for q in QUESTIONS]

    # The longest of them twice in a row: nothing that came between can have taken its slot.
    longest = max(QUESTIONS, key=len)
    first, second = (ask(running, longest) for _ in range(2))
    assert first["message"] == second["message"] == expected[longest]
    assert second["usage"]["cached_tokens"] > 0


def test_two_models_side_by_side_with_the_openai_package(
    server: StartServer, float32: Path, expected: dict[str, str]
) -> None:
    running = server(f"tiny,exact=llama@{float32}")
    client = OpenAI(base_url=f"{running.url}/v1", api_key="none", timeout=HANG_S)
    assert [model.id for model in client.models.list()] == ["tiny", "exact"]
    for question in QUESTIONS[:3]:
        whole = client.chat.completions.create(
            model="exact",
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=NEW_TOKENS,
        )
        assert whole.choices[0].message.content == expected[question]
        pieces = client.chat.completions.create(
            model="exact",
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=NEW_TOKENS,
            stream=True,
        )
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert text == expected[question]
    greeting = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hello, how are you?"}], temperature=0
    )
    assert greeting.choices[0].message.content


def test_the_preprompt_is_evaluated_once(server: StartServer) -> None:
    preprompt = "You are a friendly assistant. Answer in one short sentence, and be polite."
    running = server("tiny", prompt=preprompt)
    first, second = ask(running, "Hello"), ask(running, "Who are you?", max_tokens=5)
    assert first["configuration"]["prompt"] == preprompt
    assert first["usage"]["cached_tokens"] > 10, "even the first request finds it there"
    assert second["usage"]["cached_tokens"] > 10
