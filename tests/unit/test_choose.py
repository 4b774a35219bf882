"""What is taken of a listing, and what is left where it is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_llm_server.errors import ConfigurationError, StartError, WeightsError
from open_llm_server.store.choose import Chosen, choose

PICKLES = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
PARTS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
BASE = ["config.json", "model.safetensors", "tokenizer.json"]
SMALL = [
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
]
NEVER = [
    ".gitattributes",
    "README.md",
    "consolidated.safetensors",
    "evaluation.json",
    "flax_model.msgpack",
    "instruct_pipeline.py",
    "model.fp16.safetensors",
    "onnx/model.onnx",
    "original/config.json",
    "original/consolidated.00.pth",
    "original/tokenizer.model",
    "pytorch_model.bin",
    "rust_model.ot",
    "tf_model.h5",
    "training_args.bin",
    "../config.json",
    "/etc/config.json",
]


def folder(names: Sequence[str], *, convert: bool = False, file: str | None = None) -> Chosen:
    return choose(names, "folder", file=file, where="org/name", convert=convert)


def gguf(names: Sequence[str], file: str | None = None) -> Chosen:
    return choose(names, "gguf", file=file, where="org/name", convert=False)


def refusal(names: Sequence[str], file: str | None = None, *, weights: str = "folder") -> str:
    with pytest.raises(StartError) as caught:
        gguf(names, file) if weights == "gguf" else folder(names, file=file)
    assert "org/name" in caught.value.message
    return caught.value.message


# -- checkpoints -----------------------------------------------------------------------------


def test_only_what_the_engine_reads() -> None:
    chosen = folder([*NEVER, *SMALL, "model.safetensors"])
    assert chosen == Chosen(tuple(sorted([*SMALL, "model.safetensors"])), None, pickled=False)


def test_a_sentence_encoder() -> None:
    more = ["1_Pooling/config.json", "modules.json", "sentence_bert_config.json"]
    chosen = folder([*BASE, *more, "2_Normalize/x.bin", "1_Pooling/model.bin"])
    assert set(chosen.files) == {*BASE, *more}


def test_one_file_before_several() -> None:
    names = [*BASE, *PARTS, "model.safetensors.index.json"]
    assert set(folder(names).files) == {*BASE}


def test_several_files_of_weights() -> None:
    names = ["config.json", "tokenizer.json", "model.safetensors.index.json", *PARTS]
    assert set(folder(names).files) == {*names}
    assert PARTS[1] in refusal(names[:-1])
    assert "1 of the 2 parts" in refusal(names[:-1])
    assert "model.safetensors.index.json" in refusal(["config.json", "tokenizer.json", *PARTS])


@pytest.mark.parametrize(
    "names", [["spiece.model"], ["vocab.json", "merges.txt"], ["vocab.txt"], ["tokenizer.model"]]
)
def test_older_tokenizers_only_where_there_is_no_newer(names: list[str]) -> None:
    assert set(folder([*BASE, *names]).files) == {*BASE}
    older = ["config.json", "model.safetensors", *names]
    assert set(folder([*older, "merges.json"]).files) == {*older}


@pytest.mark.parametrize(
    "weights", [["pytorch_model.bin"], ["pytorch_model.bin.index.json", *PICKLES]]
)
def test_pickles_only_where_they_are_wanted(weights: list[str]) -> None:
    names = ["config.json", "tokenizer.json", *weights]
    message = refusal(names)
    assert "runs whatever code" in message
    assert "open-llm-server import FAMILY@org/name --convert-pickles" in message
    chosen = folder(names, convert=True)
    assert chosen.pickled
    assert set(chosen.files) == {*names}


def test_pickles_are_never_taken_beside_safetensors() -> None:
    chosen = folder([*BASE, "pytorch_model.bin"], convert=True)
    assert chosen == Chosen(tuple(BASE), None, pickled=False)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "there is no config.json in org/name"),
        (["config.json", "tokenizer.json"], "there is no model.safetensors"),
        (["config.json", "model.safetensors"], "there is no tokenizer.json"),
        (["config.json", "model.safetensors", "vocab.json"], "there is no tokenizer.json"),
        (["config.json", "tokenizer.json", "tf_model.h5"], "for TensorFlow"),
        (["config.json", "tokenizer.json", "flax_model.msgpack"], "for Flax"),
        (["config.json", "tokenizer.json", "onnx/model.onnx"], "for ONNX"),
        (["config.json", "tokenizer.json", "model.pt"], "not converted here"),
        (["model-Q8_0.gguf"], "llama@org/name"),
        (["adapter_config.json", "adapter_model.safetensors"], "--lora"),
    ],
)
def test_what_is_no_checkpoint(names: list[str], words: str) -> None:
    assert words in refusal(names)


def test_a_checkpoint_has_no_file() -> None:
    with pytest.raises(ConfigurationError, match=r"leave '#a\.gguf' out"):
        folder(BASE, file="a.gguf")


# -- GGUF ------------------------------------------------------------------------------------

TEN = [f"m-{kind}.gguf" for kind in ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q8_0", "F16")]


def test_the_only_one() -> None:
    names = ["README.md", "config.json", "m.gguf", "mmproj-m-f16.gguf", "m.imatrix.gguf"]
    assert gguf(names) == Chosen(("m.gguf",), "m.gguf", pickled=False)


def test_one_of_many_must_be_named() -> None:
    with pytest.raises(ConfigurationError) as caught:
        gguf(TEN)
    assert all(name in caught.value.message for name in TEN)
    assert "FAMILY@org/name#m-F16.gguf" in caught.value.message
    assert gguf(TEN, "m-Q8_0.gguf") == Chosen(("m-Q8_0.gguf",), "m-Q8_0.gguf", pickled=False)


def test_a_name_that_is_not_there_has_neighbours() -> None:
    assert "m-Q8_0.gguf" in refusal(TEN, "m-Q8.gguf", weights="gguf")
    assert "holds no GGUF" in refusal(["README.md"], "m.gguf", weights="gguf")
    assert "no GGUF file 'README.md'" in refusal([*TEN, "README.md"], "README.md", weights="gguf")


@pytest.mark.parametrize("name", [".parts/m.gguf", "a/.b/m.gguf", ".m.gguf", "a./.../m.gguf"])
def test_hidden_names_are_the_stores_own(name: str) -> None:
    assert gguf(["m.gguf", name]).files == ("m.gguf",)
    assert "no GGUF file" in refusal(["m.gguf", name], name, weights="gguf")
    assert "there is no GGUF model" in refusal([name], weights="gguf")


@pytest.mark.parametrize("name", ["mmproj-model-f16.gguf", "m.mmproj-f16.gguf", "imatrix.gguf"])
def test_what_is_no_model_of_its_own(name: str) -> None:
    assert "no model of its own" in refusal([*TEN, name], name, weights="gguf")
    assert "there is no GGUF model" in refusal([name], weights="gguf")


@pytest.mark.parametrize("asked", [None, 1, 2, 3])
def test_all_parts_of_one_model(asked: int | None) -> None:
    names = [f"Q8_0/m-{place:05d}-of-00003.gguf" for place in (1, 2, 3)]
    file = names[asked - 1] if asked else None
    assert gguf(names, file) == Chosen(tuple(names), names[0], pickled=False)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_part_is_named(missing: int) -> None:
    names = {f"m-{place:05d}-of-00003.gguf" for place in (1, 2, 3)}
    gone = f"m-{missing:05d}-of-00003.gguf"
    assert gone in refusal(sorted(names - {gone}), weights="gguf")


@pytest.mark.parametrize("count", [0, 99_999])
def test_numbers_of_parts_that_cannot_be(count: int) -> None:
    assert "one of" in refusal([f"m-00001-of-{count:05d}.gguf"], weights="gguf")


def test_a_checkpoint_is_for_another_family() -> None:
    assert "family on torch" in refusal(BASE, weights="gguf")


# -- any listing -----------------------------------------------------------------------------

WORDS = st.sampled_from(
    [*BASE, *SMALL, *NEVER, *TEN, *PARTS, *PICKLES, "a.gguf", "x/../y.gguf", "C:\\a.gguf", "a\n"]
)


@given(
    names=st.lists(WORDS | st.text(max_size=12)),
    weights=st.sampled_from(["gguf", "folder"]),
    file=st.none() | WORDS,
    convert=st.booleans(),
)
def test_what_is_taken_was_listed_and_stays_inside(
    names: list[str], weights: str, file: str | None, convert: bool
) -> None:
    kind = "gguf" if weights == "gguf" else "folder"
    try:
        chosen = choose(
            names,
            kind,  # type: ignore[arg-type]  # one of the two words
            file=file,
            where="org/name",
            convert=convert,
        )
    except (WeightsError, ConfigurationError):
        return
    assert set(chosen.files) <= set(names)
    assert chosen.main is None or chosen.main in chosen.files
    assert chosen.pickled == any(name.endswith(".bin") for name in chosen.files)
    for name in chosen.files:
        assert not name.startswith("/")
        assert not any(part.startswith(".") for part in name.split("/"))
        assert not {"\\", "\n", ":"} & {*name}
        assert not name.endswith((".py", ".pt", ".pth", ".pkl"))
