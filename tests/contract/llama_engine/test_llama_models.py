"""Text, embeddings and loading on the llama.cpp engine."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from ggufs import SMALL, byte_pairs, write_model
from llama_engines import PROMPT, generate, load, logits

from open_llm_server.engine.llama_cpp import LlamaCppEngine
from open_llm_server.engine.llama_native import Model
from open_llm_server.engine.llama_vocab import Vocabulary
from open_llm_server.errors import ConfigurationError, ContextLengthExceeded, WeightsError

pytestmark = pytest.mark.weights


def test_text_becomes_tokens_and_comes_back(engine: LlamaCppEngine) -> None:
    text = "Hello, na\u00efve \u6f22\u5b57 \U0001f600!\n"
    tokens = engine.tokenize(text, begin=True, control=False)
    assert tokens[0] == 1
    assert b"".join(map(engine.piece, tokens)).decode() == " " + text
    assert engine.tokenize("", begin=False, control=False) == []


def test_control_tokens_only_on_demand(engine: LlamaCppEngine) -> None:
    assert engine.control_texts == {"<unk>", "<s>", "</s>"}
    assert engine.tokenize("</s>", begin=False, control=True) == [2]
    plain = engine.tokenize("</s>", begin=False, control=False)
    assert 2 not in plain
    assert b"".join(map(engine.piece, plain)) == b" </s>"
    assert engine.piece(2) == b""
    assert (engine.begin_text, engine.end_text) == ("<s>", "</s>")
    assert engine.limits.end_tokens == {2}
    assert engine.chat_template


def test_a_text_that_cannot_fit_is_refused_unread(engine: LlamaCppEngine) -> None:
    with pytest.raises(ContextLengthExceeded) as refused:
        engine.tokenize("word " * 1_000_000, begin=True, control=False)
    assert refused.value.extra["n_ctx"] == engine.limits.context_length
    with pytest.raises(ValueError, match="surrogates"):
        engine.tokenize("\ud800", begin=True, control=False)


HOSTILE = """
import sys
from pathlib import Path
from open_llm_server.engine.llama_native import Model
from open_llm_server.engine.llama_vocab import Vocabulary
words = Vocabulary(Model(Path(sys.argv[1]), gpu_layers=0), context_length=1_000_000)
for text in ["A", "a", ".", " ", "\\n", "Z", "\u00e9", "\u6f22", "1", "_", "\u0301", "'", "\t"]:
    tokens = words.tokenize(text * 200_000, begin=True, control=False)
    back = b"".join(map(words.piece, tokens)).decode()
    assert back in (text * 200_000, " " + text * 200_000), text
"""


@pytest.mark.parametrize(
    "kind", ["", "default", "gpt-2", "llama-bpe", "qwen2", "gpt-4o", "deepseek-v3", "tekken"]
)
def test_equal_letters_do_not_end_the_process(tmp_path: Path, kind: str) -> None:
    """llama.cpp's own tokenizer overflows its stack on some 26,000 of them."""
    path = tmp_path / "words.gguf"
    add: Any = byte_pairs(kind) if kind else None
    write_model(path, SMALL, add_vocabulary=add)
    ended = subprocess.run(
        [sys.executable, "-c", HOSTILE, path], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


@pytest.mark.parametrize("kind", ["", "llama-bpe"])
def test_cuts_leave_ordinary_text_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "words.gguf"
    add: Any = byte_pairs(kind) if kind else None
    write_model(path, SMALL, add_vocabulary=add)
    words = Vocabulary(Model(path, gpu_layers=0), context_length=100_000)
    text = "The tea is  hot, na\u00efve\n\n \u6f22\u5b57 AAAA <s> nothing else </s> " * 400
    for control in (False, True):
        whole = words._tokens(text.encode(), True, control)
        assert words.tokenize(text, begin=True, control=control) == whole


def test_embeddings_are_unit_vectors_that_touch_no_slot(engine: LlamaCppEngine) -> None:
    expected = generate(engine, 4)
    engine.forget(0)
    generate(engine, 2)
    one, two, again = engine.embed([PROMPT, [1, 333], PROMPT])
    assert len(one) == engine.limits.embedding_size
    assert math.isclose(math.hypot(*one), 1.0, rel_tol=1e-9)
    assert one == again == engine.embed([PROMPT])[0]
    assert one != two
    tokens = [*PROMPT, *expected[:2]]
    assert generate(engine, 2, prompt=tokens, start=len(tokens) - 1) == expected[2:]


def test_a_long_input_is_embedded_whole(weights: Path) -> None:
    engine = load(weights, context_length=512)
    tokens = [1, *range(259, 400)] * 3
    chunked = engine.embed([tokens])[0]
    states = []
    for end in range(1, len(tokens) + 1, 50):
        states.append(engine.embed([tokens[:end]])[0])
    assert len({tuple(state) for state in states}) == len(states)
    assert math.isclose(math.hypot(*chunked), 1.0, rel_tol=1e-9)
    with pytest.raises(ContextLengthExceeded):
        engine.embed([[300] * 513])
    engine.close()


def test_what_cannot_be_loaded_names_a_way_out(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--slots"):
        load(weights, slots=1000)
    with pytest.raises(ConfigurationError, match="--context-length"):
        load(weights, context_length=16_000_000, slots=200)
    with pytest.raises(ConfigurationError, match="--device cpu"):
        load(weights, gpu_layers=-1)
    foreign = tmp_path / "foreign.gguf"
    write_model(foreign, SMALL, architecture="no-such-architecture")
    with pytest.raises(WeightsError, match="no-such-architecture"):
        load(foreign)
    with pytest.raises(WeightsError, match="LoRA"):
        load(weights, lora=[weights])


def test_an_adapter_is_laid_over_the_weights(weights: Path, tmp_path: Path) -> None:
    def adapter(name: str, size: float) -> Path:
        path = tmp_path / name
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 4.0)
        random = np.random.default_rng(0)
        for half, shape in (("lora_a", (4, SMALL.width)), ("lora_b", (SMALL.width, 4))):
            values = size * random.standard_normal(shape, dtype=np.float32)
            writer.add_tensor(f"blk.0.attn_v.weight.{half}", values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    found = []
    for lora in ([], [adapter("none.gguf", 0.0)], [adapter("some.gguf", 1.0)]):
        engine = load(weights, lora=lora)
        found.append(logits(engine, PROMPT))
        engine.close()
    plain, unchanged, changed = found
    assert np.array_equal(plain, unchanged)
    assert np.abs(plain - changed).max() > 0.01


def test_the_models_own_context_is_the_default(weights: Path) -> None:
    engine = load(weights, context_length=None)
    assert engine.limits.context_length == SMALL.context_length
    engine.close()
    engine.close()  # harmless
