"""What evaluation harnesses ask of `/v1/completions`: the log-likelihood of given text.

They send prompts (as token ids, several at once) with `echo`, `logprobs` and `max_tokens` 0, and
add up `choices[i].logprobs.token_logprobs` over the tokens of a continuation; whether it is the
greedy one they see from `top_logprobs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
import torch
from ggufs import TINY, tiny_float32
from running import HANG_S, Running
from transformers import AutoModelForCausalLM, AutoTokenizer

from open_llm_server.serving import start

pytestmark = [pytest.mark.server, pytest.mark.weights]

CLOSE = 1e-3
"""Nats a token: llama.cpp keeps keys and values in half precision."""
PAIRS = (
    ("What is the capital of France?", " Paris"),
    ("The server listens on port", " 5000."),
    ("Hello, how are", " you? \u00e9\U0001f600"),
    ("Once upon a time there was", " a little model that answered every question it was asked."),
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The built-in weights in float32."""
    path = tiny_float32(tmp_path_factory.mktemp("float32"))
    with start(f"exact=llama@{path}", port=0, wait_s=HANG_S) as server:
        yield Running(server)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TINY / "hf")


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(TINY / "hf", dtype=torch.float32)


def completions(running: Running, prompt: Any, **fields: Any) -> list[dict[str, Any]]:
    """The choices of one request, as harnesses send it."""
    body = {
        "model": "exact",
        "prompt": prompt,
        "temperature": 0,
        "max_tokens": 0,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
        **fields,
    }
    answer = httpx.post(f"{running.url}/v1/completions", json=body, timeout=HANG_S)
    assert answer.status_code == 200, answer.text
    choices: list[dict[str, Any]] = answer.json()["choices"]
    return choices


def likelihood(choice: dict[str, Any], context: int) -> tuple[float, bool]:
    """The continuation's log-likelihood, and whether greedy search would have written it."""
    logprobs = choice["logprobs"]
    scores = logprobs["token_logprobs"][context:]
    best = (max(top.values()) for top in logprobs["top_logprobs"][context:])
    return sum(scores), all(score == top for score, top in zip(scores, best, strict=True))


def theirs(model: Any, tokens: Sequence[int], context: int) -> tuple[float, bool]:
    """The same from one plain forward pass."""
    with torch.no_grad():
        logprobs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    places = range(context, len(tokens))
    greedy = all(int(logprobs[place - 1].argmax()) == tokens[place] for place in places)
    return sum(float(logprobs[place - 1, tokens[place]]) for place in places), greedy


def test_likelihoods_of_continuations(running: Running, tokenizer: Any, model: Any) -> None:
    contexts = [tokenizer.encode(context) for context, _ in PAIRS]
    wholes = [
        [*begin, *tokenizer.encode(end)] for begin, (_, end) in zip(contexts, PAIRS, strict=True)
    ]
    choices = completions(running, wholes)
    assert [choice["index"] for choice in choices] == list(range(len(PAIRS)))
    for choice, context, whole in zip(choices, contexts, wholes, strict=True):
        logprobs = choice["logprobs"]
        assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
        assert {len(values) for values in logprobs.values()} == {len(whole)}
        ours, greedy = likelihood(choice, len(context))
        expected, expected_greedy = theirs(model, whole, len(context))
        assert ours == pytest.approx(expected, abs=CLOSE * (len(whole) - len(context)))
        assert greedy == expected_greedy


def test_one_prompt_of_ids_text_and_lists_agree(running: Running, tokenizer: Any) -> None:
    text = "".join(PAIRS[0])
    ids = tokenizer.encode(text)
    single, listed, written = (
        completions(running, prompt)[0]["logprobs"] for prompt in (ids, [ids], text)
    )
    assert single["tokens"] == listed["tokens"] == written["tokens"]
    for other in (listed, written):
        assert other["token_logprobs"][1:] == pytest.approx(single["token_logprobs"][1:], abs=CLOSE)
    assert "".join(single["tokens"]) == text


def test_greedy_continuations_are_seen_as_such(
    running: Running, tokenizer: Any, model: Any
) -> None:
    prompt = tokenizer.encode("<|user|>\nHello, how are you?<|end|>\n<|assistant|>\n")
    out = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0].tolist()
    (choice,) = completions(running, [out])
    ours, greedy = likelihood(choice, len(prompt))
    assert greedy
    expected, _ = theirs(model, out, len(prompt))
    assert ours == pytest.approx(expected, abs=CLOSE * (len(out) - len(prompt)))
    other = [*out[:-1], (out[-1] + 1) % 256]
    (choice,) = completions(running, [other])
    assert not likelihood(choice, len(prompt))[1]


def test_a_generated_token_may_follow(running: Running, tokenizer: Any) -> None:
    """Some harnesses ask for one token more and cut it off."""
    ids = tokenizer.encode("".join(PAIRS[1]))
    (one,) = completions(running, [ids], max_tokens=1)
    (none,) = completions(running, [ids])
    scores = one["logprobs"]["token_logprobs"]
    assert len(scores) == len(ids) + 1
    assert scores[1:-1] == pytest.approx(none["logprobs"]["token_logprobs"][1:], abs=CLOSE)


def test_a_text_as_long_as_the_context(running: Running, tokenizer: Any, model: Any) -> None:
    long = (tokenizer.encode("The server answers. ") * 400)[:1023]
    (choice,) = completions(running, [long])
    ours, _ = likelihood(choice, 1)
    assert ours / 1022 == pytest.approx(theirs(model, long, 1)[0] / 1022, abs=CLOSE)
