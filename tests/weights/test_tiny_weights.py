"""The built-in weights: both copies are the same model, tokenise alike, and answer sensibly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
import torch
import transformers
from ggufs import TINY, tiny_export

pytestmark = pytest.mark.weights

HF = TINY / "hf"
QUANTISED = TINY / "tiny-q8_0.gguf"
TEXTS = (
    "Hello, how are you?",
    "What is 12 + 345? 6789012345!",
    "   leading and   inner  spaces \t tabs\t\tand trailing   ",
    "line one\nline two\n\n\nline three\r\n \n  x",
    "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m \u00df \u0130stanbul",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u3053\u3093 \uc548\ub155",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f mixed\U0001f680text",
    "I'm, you're, he'd, we'll, they've, it's; DON'T 'quoted'",
    "open-llm-server start llama --device 'flan-t5:cpu,llama:gpu:0'",
    '{"stream": true, "n": 3}',
    "\u0627\u0644\u0633\u0644 \u0939\u093f\u0928 \u0e44\u0e17\u0e22",
    "\u00bd of \u00b2 and \u0664\u0662",
    "<|system|>\nBe kind.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n",
    "a<|end|><|end|> <|text|>b <|pad|> <|nothing|> <|user",
    "\u00a0no-break\u2003em\u200bzero \ufeffbom",
    "\x00\x01\x7f control",
    "",
    " ",
    "\n",
)
PROMPTS = (
    "<|user|>\nHello, how are you?<|end|>\n<|assistant|>\n",
    "<|system|>\nBe brief.<|end|>\n<|user|>\nWhat is the capital of Italy?<|end|>\n<|assistant|>\n",
    "Once upon a time",
    "My name is ...",
)


@pytest.fixture(scope="module")
def export() -> ModuleType:
    return tiny_export()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(HF)


@pytest.fixture(scope="module")
def quantised() -> Iterator[Any]:
    model = llama_cpp.Llama(str(QUANTISED), n_ctx=1024, n_threads=2, verbose=False)
    yield model
    model.close()


def ids_of(model: Any, text: str) -> list[int]:
    return list(model.tokenize(text.encode(), add_bos=False, special=True))


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    found: list[int] = []
    model.reset()
    for token in model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        found.append(int(token))
        if token == model.token_eos() or len(found) == count:
            break
    return found


def answer(model: Any, *messages: tuple[str, str]) -> tuple[str, str]:
    turns = [{"role": role, "content": text} for role, text in messages]
    reply = model.create_chat_completion(turns, temperature=0.0, max_tokens=120)
    choice = reply["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


@pytest.mark.parametrize("text", TEXTS)
def test_both_tokenizers_agree(text: str, tokenizer: Any, quantised: Any) -> None:
    expected = tokenizer.encode(text)
    assert ids_of(quantised, text) == expected
    assert quantised.detokenize(expected, special=True).decode() == tokenizer.decode(expected)


def test_neither_tokenizer_adds_tokens(tokenizer: Any, quantised: Any) -> None:
    assert quantised.metadata["tokenizer.ggml.add_bos_token"] == "false"
    assert quantised.tokenize(b"Hello") == tokenizer.encode("Hello")
    assert quantised.token_eos() == tokenizer.eos_token_id
    assert quantised.token_bos() == tokenizer.bos_token_id


def test_chat_templates_are_the_same_text(tokenizer: Any, quantised: Any) -> None:
    settings = json.loads((HF / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert quantised.metadata["tokenizer.chat_template"] == settings["chat_template"]
    assert tokenizer.chat_template == settings["chat_template"]


def test_f32_gguf_continues_like_transformers(
    export: ModuleType, tokenizer: Any, tmp_path: Path
) -> None:
    path = export.write_gguf(HF, tmp_path / "tiny-f32.gguf", "f32")
    ours = llama_cpp.Llama(str(path), n_ctx=512, n_threads=2, verbose=False)
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(HF, dtype=torch.float32)
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        out = theirs.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=32,
            do_sample=False,
        )
        assert greedy(ours, ids, 32) == out[0, len(ids) :].tolist(), prompt
    ours.close()


def test_q8_0_file_is_small_and_holds_the_same_weights(export: ModuleType) -> None:
    assert QUANTISED.stat().st_size <= 8 * 2**20
    expected = export.tensors(HF)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(QUANTISED).tensors}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        assert found[name].tensor_type == kind
        whole = gguf.quants.quantize(array, kind)
        assert np.array_equal(found[name].data.view(np.uint8), whole.view(np.uint8)), name


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("Hello!", "Hello"),
        ("how are you", "you?"),
        ("Who are you?", "tiny"),
        ("Which port does the server use?", "5000"),
        ("How do I start the server?", "open-llm-server start"),
        ("What is the capital of France?", "Paris"),
        ("thanks", "welcome"),
        ("Bye!", "Goodbye"),
    ],
)
def test_answers_hold_the_expected_word_and_end(question: str, word: str, quantised: Any) -> None:
    text, reason = answer(quantised, ("user", question))
    assert word in text
    assert reason == "stop"


def test_remembers_a_name_past_a_system_message(quantised: Any) -> None:
    told = (("system", "You are a helpful assistant."), ("user", "My name is Anna."))
    noted, _ = answer(quantised, *told)
    text, reason = answer(quantised, *told, ("assistant", noted), ("user", "What is my name?"))
    assert "Anna" in text
    assert reason == "stop"
