"""The encoder engine's vectors are those of transformers and of sentence-transformers' recipe."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_bert, real_minilm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from open_llm_server.config.machine import Machine
from open_llm_server.config.merge import resolve
from open_llm_server.config.resolved import ModelPlan
from open_llm_server.engine.base import Batch, Draw, Row
from open_llm_server.engine.fit_torch import ENCODER_BATCH_TOKENS
from open_llm_server.engine.torch_encoder import EncoderEngine
from open_llm_server.errors import ConfigurationError, ContextLengthExceeded, WeightsError
from open_llm_server.minilm import MiniLM

pytestmark = pytest.mark.weights

TEXTS = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A cheetah is running behind its prey.",
    "Grüße aus Köln, 你好 世界 😀",
    "a",
)
TOLERANCE = 1e-5
Pooling = dict[str, Any]
MEAN: Pooling = {"pooling_mode": "mean"}
MEAN_BY_FLAG: Pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
CLS: Pooling = {"pooling_mode": "cls"}
CLS_BY_FLAG: Pooling = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}


def load(folder: Path, **kw: Any) -> EncoderEngine:
    given_values = {"model_types": ("bert",), "context_length": None, "slots": 2, "threads": 2}
    return EncoderEngine.load(folder, **{**given_values, **kw})


def write_files(
    folder: Path,
    pooling: Pooling = MEAN,
    *,
    steps: Sequence[str] = ("Transformer", "Pooling", "Normalize"),
    **transformer: Any,
) -> Path:
    """sentence-transformers' files; the kinds of `steps` as old releases name them."""
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [
        {
            "idx": place,
            "path": paths.get(name, f"{place}_{name}"),
            "type": f"sentence_transformers.models.{name}",
        }
        for place, name in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps(transformer))
    return folder


@cache
def reference(folder: Path) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer, AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def expected(folder: Path, text: str, *, cls: bool = False) -> list[float]:
    """By transformers alone, one text at a time."""
    tokenizer, model = reference(folder)
    inputs = tokenizer(text, return_tensors="pt", padding=False, truncation=False)
    states = model(**inputs).last_hidden_state[0]
    pooled = states[0] if cls else states.mean(dim=0)
    vector: list[float] = torch.nn.functional.normalize(pooled, dim=0).tolist()
    return vector


def tokens_of(engine: EncoderEngine, text: str) -> list[int]:
    return engine.tokenize(text, begin=True, control=False)


def close(left: Sequence[float], right: Sequence[float], tolerance: float = TOLERANCE) -> bool:
    return max(abs(a - b) for a, b in zip(left, right, strict=True)) < tolerance


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="module")
def engine(folder: Path) -> EncoderEngine:
    return load(folder)


# -- vectors ---------------------------------------------------------------------------------


def test_vectors_are_those_of_transformers(engine: EncoderEngine, folder: Path) -> None:
    vectors = engine.embed([tokens_of(engine, text) for text in TEXTS])
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert len(vector) == engine.limits.embedding_size == 64
        assert math.isclose(math.hypot(*vector), 1.0, abs_tol=TOLERANCE)
        assert close(vector, expected(folder, text)), text
    assert not close(vectors[0], vectors[1])


def test_the_end_token_is_there_once(engine: EncoderEngine, folder: Path) -> None:
    tokenizer, _ = reference(folder)
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    tokens = tokens_of(engine, TEXTS[0])
    assert engine.limits.prompt_suffix == (end,)
    assert (tokens[0], tokens[-1] == end) == (begin, False)
    assert [*tokens, end] == tokenizer(TEXTS[0])["input_ids"]
    assert engine.embed([tokens]) == engine.embed([[*tokens, end]])


@given(data=st.data())
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_company_changes_nothing(engine: EncoderEngine, data: st.DataObject) -> None:
    token = st.integers(5, engine.limits.vocabulary - 1)
    inputs = data.draw(st.lists(st.lists(token, min_size=1, max_size=40), min_size=2, max_size=12))
    together = engine.embed(inputs)
    for tokens, vector in zip(inputs, together, strict=True):
        assert close(vector, engine.embed([tokens])[0])


def test_more_than_a_pass_of_inputs(engine: EncoderEngine) -> None:
    inputs = [[2, 5 + place % 90, *[7] * (3 * place)] for place in range(60)]
    assert sum(map(len, inputs)) > 2 * ENCODER_BATCH_TOKENS
    for tokens, vector in zip(inputs, engine.embed(inputs), strict=True):
        assert close(vector, engine.embed([tokens])[0])


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "relu"},
        {"hidden_act": "gelu_new"},
        {"layer_norm_eps": 1e-3},
        {"num_attention_heads": 2, "num_hidden_layers": 1},
        {"hidden_size": 32, "intermediate_size": 160},
    ],
    ids=str,
)
def test_configurations(change: dict[str, Any], tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "model", **change)
    engine = load(folder)
    for text, vector in zip(
        TEXTS, engine.embed([tokens_of(engine, t) for t in TEXTS]), strict=True
    ):
        assert close(vector, expected(folder, text))


def test_coarser_numbers(folder: Path, engine: EncoderEngine) -> None:
    coarse = load(folder, dtype="bfloat16")
    inputs = [tokens_of(engine, text) for text in TEXTS]
    for exact, vector in zip(engine.embed(inputs), coarse.embed(inputs), strict=True):
        assert close(exact, vector, 0.05)
        assert math.isclose(math.hypot(*vector), 1.0, abs_tol=TOLERANCE)


# -- limits and turns ------------------------------------------------------------------------


def test_limits(engine: EncoderEngine) -> None:
    limits = engine.limits
    assert (limits.context_length, limits.slots, limits.pooling) == (256, 2, "mean")
    assert not limits.generates and not limits.whole_prompt
    assert engine.chat_template is None
    assert "[CLS]" in engine.control_texts


def test_a_long_input_is_refused_and_never_cut(engine: EncoderEngine) -> None:
    (vector,) = engine.embed([[2, *[7] * 254]])
    assert len(vector) == 64
    with pytest.raises(ContextLengthExceeded, match="257 tokens") as refused:
        engine.embed([[2], [2, *[7] * 255]])
    assert refused.value.extra == {"n_prompt_tokens": 257, "n_ctx": 256}


def test_it_can_be_left_between_layers(engine: EncoderEngine) -> None:
    calls = []

    def leave() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("left")

    with pytest.raises(KeyError, match="left"):
        engine.embed([[2, 7]], between=leave)
    assert len(calls) == 2


def test_it_continues_no_text(engine: EncoderEngine) -> None:
    assert engine.step(Batch()) == []
    with pytest.raises(RuntimeError, match="embeddings only"):
        engine.step(Batch(rows=[Row(0, [2], 0, Draw())]))
    engine.forget(0)
    engine.abort()


# -- sentence-transformers' files ------------------------------------------------------------


@pytest.mark.parametrize(
    ("pooling", "name"),
    [(MEAN, "mean"), (MEAN_BY_FLAG, "mean"), (CLS, "cls"), (CLS_BY_FLAG, "cls")],
    ids=str,
)
def test_pooling_is_what_the_files_say(pooling: Pooling, name: str, tmp_path: Path) -> None:
    folder = write_files(make_bert(tmp_path / "model"), pooling)
    engine = load(folder)
    assert engine.limits.pooling == name
    (vector,) = engine.embed([tokens_of(engine, TEXTS[0])])
    assert close(vector, expected(folder, TEXTS[0], cls=name == "cls"))


@pytest.mark.parametrize(
    ("pooling", "word"),
    [
        ({"pooling_mode": "max"}, "max"),
        ({"pooling_mode": ["mean", "cls"]}, "mean and cls"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True}, "lasttoken"),
        ({}, "unset"),
    ],
)
def test_other_pooling_is_refused(pooling: Pooling, word: str, tmp_path: Path) -> None:
    folder = write_files(make_bert(tmp_path / "model"), pooling)
    with pytest.raises(WeightsError, match=rf"pooling .*{word}.*only mean or cls"):
        load(folder)


def test_further_steps_are_refused(tmp_path: Path) -> None:
    folder = write_files(
        make_bert(tmp_path / "model"), steps=("Transformer", "Pooling", "Dense", "Normalize")
    )
    with pytest.raises(WeightsError, match="step 'Dense' is not supported"):
        load(folder)


def test_a_model_that_does_not_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no step 'Pooling'"):
        load(write_files(make_bert(tmp_path / "model"), steps=("Transformer",)))


@pytest.mark.parametrize(
    ("file", "text"),
    [("modules.json", "[{]"), ("modules.json", '[{"type": 1}]'), ("1_Pooling/config.json", "[]")],
)
def test_broken_files_are_named(file: str, text: str, tmp_path: Path) -> None:
    folder = write_files(make_bert(tmp_path / "model"))
    (folder / file).write_text(text)
    with pytest.raises(WeightsError, match=file):
        load(folder)


def test_a_missing_pooling_file_is_named(tmp_path: Path) -> None:
    folder = write_files(make_bert(tmp_path / "model"))
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"1_Pooling.config\.json is missing"):
        load(folder)


def test_lengths_are_the_files_unless_they_are_set(tmp_path: Path) -> None:
    folder = write_files(make_bert(tmp_path / "model"), max_seq_length=128)
    assert load(folder).limits.context_length == 128
    assert load(folder, context_length=200).limits.context_length == 200
    with pytest.raises(ConfigurationError, match="256 positions") as refused:
        load(folder, context_length=257)
    assert refused.value.param == "context_length"


def test_lower_case_where_the_files_say_so(tmp_path: Path) -> None:
    folder = write_files(make_bert(tmp_path / "model"), do_lower_case=True)
    definition = json.loads((folder / "tokenizer.json").read_text())
    definition["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    engine = load(folder)
    assert tokens_of(engine, "A Dog") == tokens_of(engine, "a dog")


@pytest.mark.parametrize(
    ("change", "word"),
    [({"is_decoder": True}, "decodes"), ({"hidden_act": "tanh"}, "activation 'tanh'")],
)
def test_what_is_computed_differently_is_refused(
    change: dict[str, Any], word: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=word):
        load(make_bert(tmp_path / "model", **change))


def plan_of(folder: Path, **given_values: Any) -> ModelPlan:
    machine = Machine(cores=2, gpus=("0", "1"))
    return resolve(f"minilm@{folder}", environ={}, machine=machine, **given_values).models[0]


def test_the_family_checks_before_torch_does(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "model")
    plan = plan_of(folder)
    MiniLM.check_weights(plan)
    assert plan.config["dtype"] == "float32"
    with pytest.raises(ConfigurationError, match="one GPU"):
        MiniLM.check_weights(plan_of(folder, devices="gpu:0+1"))
    write_files(folder, {"pooling_mode": "max"})
    with pytest.raises(WeightsError, match="pooling max is not supported"):
        MiniLM.check_weights(plan)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch computes on")
def test_on_a_gpu(folder: Path, engine: EncoderEngine) -> None:
    inputs = [tokens_of(engine, text) for text in TEXTS]
    exact = engine.embed(inputs)
    for dtype, tolerance in (("float32", 1e-3), ("auto", 0.05)):
        there = load(folder, device="gpu:0", dtype=dtype)
        for one, other in zip(exact, there.embed(inputs), strict=True):
            assert close(one, other, tolerance)


# -- the real model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> Path:
    return real_minilm()


def test_the_real_model(minilm: Path) -> None:
    engine = load(minilm)
    assert (engine.limits.context_length, engine.limits.embedding_size) == (256, 384)
    assert engine.limits.pooling == "mean"
    long = "The quick brown fox jumps over the lazy dog. " * 25
    texts = (*TEXTS, long)
    inputs = [tokens_of(engine, text) for text in texts]
    # its tokenizer.json cuts at 128 tokens and pads to 128
    assert len(inputs[-1]) > 200 and len(inputs[-2]) == 2
    vectors = engine.embed(inputs)
    tokenizer, _ = reference(minilm)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    for text, vector in zip(texts, vectors, strict=True):
        assert close(vector, expected(minilm, text)), text


def test_alike_is_nearer_than_unlike(minilm: Path) -> None:
    engine = load(minilm)
    first, *others = engine.embed([tokens_of(engine, text) for text in TEXTS[:4]])
    cosines = [sum(map(operator.mul, first, other)) for other in others]
    assert cosines[0] > 0.7
    assert max(cosines[1:]) < 0.3
