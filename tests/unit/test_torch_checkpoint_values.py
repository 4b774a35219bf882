"""Values in a checkpoint's JSON files that no real one has: refused in words, whatever they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from open_llm_server.engine.torch_checkpoint import read_checkpoint
from open_llm_server.errors import WeightsError

CONFIG = {"model_type": "t5", "vocab_size": 4}
TABLE = {
    "layer.0": "model-00001-of-00002.safetensors",
    "layer.1": "model-00002-of-00002.safetensors",
}


def put(folder: Path, contents: dict[str, Any]) -> None:
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint in two parts."""
    put(tmp_path, {"config": CONFIG, "generation_config": {"eos_token_id": 1}, "tokenizer": {}})
    put(tmp_path, {"model.safetensors.index": {"weight_map": TABLE}})
    for tensor, part in TABLE.items():
        header = {tensor: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
        text = json.dumps(header).encode()
        (tmp_path / part).write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(folder, model_types={"t5"})
    return caught.value.message


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("name", ["config", "generation_config", "model.safetensors.index"])
def test_numbers_without_end(folder: Path, name: str, number: str) -> None:
    path = folder / f"{name}.json"
    path.write_text(path.read_text().replace("{", f'{{"some_number": [{number}], ', 1))
    assert f"{name}.json is not JSON ({number} is no number)" in refusal(folder)


@pytest.mark.parametrize("key", ["num_attention_heads", "d_model", "vocab_size", "n_head"])
@pytest.mark.parametrize("size", [0, -1, 2.5, True, "4", [4], {}])
def test_sizes_that_are_none(folder: Path, key: str, size: object) -> None:
    put(folder, {"config": {**CONFIG, key: size}})
    assert f"gives {key} as {size}, which is no size" in refusal(folder)


def test_a_size_may_be_left_open(folder: Path) -> None:
    put(folder, {"config": {**CONFIG, "num_decoder_layers": None}})
    read_checkpoint(folder, model_types={"t5"})


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The way to each value within `value`, itself included."""
    yield ()
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from ((key, *way) for way in places(inner))


def changed(value: Any, way: tuple[Any, ...], new: Any) -> Any:
    if not way:
        return new
    value = value.copy()
    value[way[0]] = changed(value[way[0]], way[1:], new)
    return value


@settings(
    max_examples=200, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_value_at_any_place_is_read_or_refused(folder: Path, data: st.DataObject) -> None:
    contents: dict[str, Any] = {
        "config": {**CONFIG, "num_heads": 2, "rope_scaling": {"factor": 2.0}, "labels": ["a"]},
        "generation_config": {"eos_token_id": [1], "suppress": {"a": 1}},
        "model.safetensors.index": {"metadata": {"total_size": 16}, "weight_map": TABLE},
        "tokenizer_config": {"added_tokens_decoder": {"0": {"content": "a"}}, "eos_token": "a"},
        "modules": [],
    }
    name = data.draw(st.sampled_from(sorted(contents)))
    way = data.draw(st.sampled_from([*places(contents[name])]))
    put(folder, {**contents, name: changed(contents[name], way, data.draw(ANY_JSON))})
    try:
        read_checkpoint(folder, model_types={"t5"})
    except WeightsError as error:
        assert str(folder) in error.message  # noqa: PT017 (both outcomes are right)
