"""Pickled checkpoints become safetensors that the engine loads; what is no weight is refused."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from open_llm_server.engine import torch_convert
from open_llm_server.engine.base import Batch, Draw, Row
from open_llm_server.engine.safetensors_header import read_header
from open_llm_server.engine.torch_checkpoint import INDEX, WEIGHTS
from open_llm_server.engine.torch_engine import TorchEngine
from open_llm_server.engine.torch_writing import TYPES
from open_llm_server.errors import WeightsError
from open_llm_server.store import convert_pickles
from open_llm_server.store.choose import PICKLE, PICKLE_INDEX
from open_llm_server.store.convert import _names, convert
from open_llm_server.store.no_network import NotPossible
from open_llm_server.store.progress import Meter, Progress

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5", {}),
    "t5-tied": ("t5", {"tie_word_embeddings": True, "scale_decoder_outputs": True}),
    "bloom": ("bloom", {}),
}


class Gadget:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self._marker),)


def pickled(folder: Path, maker: str, **config: Any) -> Path:
    """A checkpoint with transformers' own state dict in it, twins and all."""
    getattr(checkpoints, f"make_{maker}")(folder, **config)
    auto: Any = AutoModelForSeq2SeqLM if maker == "t5" else AutoModelForCausalLM
    torch.save(auto.from_pretrained(folder).state_dict(), folder / PICKLE)
    (folder / WEIGHTS).unlink()
    return folder


def answer(folder: Path) -> list[int]:
    types = [json.loads((folder / "config.json").read_text())["model_type"]]
    engine = TorchEngine.load(
        folder, model_types=types, context_length=64, slots=1, threads=1, dtype="float32"
    )
    prompt = [3, 5, 7, 11, *engine.limits.prompt_suffix]
    row, found = Row(0, prompt, 0, Draw(prompt=prompt)), []
    for _ in range(12):
        (outcome,) = engine.step(Batch(rows=[row]))
        assert outcome.token is not None
        found.append(outcome.token)
        row = Row(0, [outcome.token], row.start + len(row.tokens), row.draw)
    engine.close()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_answers_as_before(kind: str, tmp_path: Path) -> None:
    maker, config = KINDS[kind]
    before = answer(getattr(checkpoints, f"make_{maker}")(tmp_path / "before", **config))
    folder = pickled(tmp_path / "after", maker, **config)
    seen: list[Progress] = []
    convert(folder, Meter(seen.append))
    assert answer(folder) == before
    assert not (folder / PICKLE).exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    done = [progress for progress in seen if progress.phase == "converting"]
    assert done
    assert done[-1].done == done[-1].total


@pytest.mark.parametrize("tied_head", [True, False])
def test_twins_are_stored_once(tmp_path: Path, tied_head: bool) -> None:
    folder = pickled(tmp_path / "model", "t5", **KINDS["t5-tied"][1])
    twins = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}
    assert twins < set(torch.load(folder / PICKLE, weights_only=True))
    torch_convert.convert_file(
        folder / PICKLE, folder / WEIGHTS, tied_head=tied_head, told=lambda _: None
    )
    names = set(load_file(folder / WEIGHTS))
    assert "shared.weight" in names
    assert names & twins == (set() if tied_head else {"lm_head.weight"})


def test_shards_and_masks_of_older_releases(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "model", "gpt_neox")
    before = answer(checkpoints.make_gpt_neox(tmp_path / "before"))
    state = torch.load(folder / PICKLE, weights_only=True)
    state["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
    state["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    (folder / PICKLE).unlink()
    table: dict[str, str] = {}
    for place, names in enumerate((sorted(state)[::2], sorted(state)[1::2]), start=1):
        file = f"pytorch_model-{place:05d}-of-00002.bin"
        torch.save(
            {name: state[name] for name in names},
            folder / file,
            _use_new_zipfile_serialization=place == 1,
        )
        table |= dict.fromkeys(names, file)
    (folder / PICKLE_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))
    convert(folder, Meter())
    assert not list(folder.glob("*.bin*"))
    assert json.loads((folder / INDEX).read_text())["weight_map"] == {
        name: file.replace("pytorch_model", "model").replace(".bin", ".safetensors")
        for name, file in table.items()
    }
    assert answer(folder) == before


def refused(folder: Path, content: Any, words: str, **options: Any) -> None:
    """Puts `content` into a folder, where it is refused and stays as it is."""
    folder.mkdir(exist_ok=True)
    torch.save(content, folder / PICKLE, **options)
    with pytest.raises(WeightsError, match=words) as caught:
        convert(folder, Meter())
    assert "safetensors" in caught.value.message
    assert [path.name for path in folder.iterdir()] == [PICKLE]


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    marker = tmp_path / "marker"
    content = {"a": torch.ones(2), "b": Gadget(marker)}
    refused(tmp_path / "m", content, "holds code", _use_new_zipfile_serialization=zipped)
    assert not marker.exists()


def test_a_plain_pickle_of_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / PICKLE).write_bytes(pickle.dumps(Gadget(marker)))
    with pytest.raises(WeightsError, match=r"code|cannot be read"):
        convert(tmp_path / "m", Meter())
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": {"a": torch.ones(2)}}, "model is dict instead of a tensor"),
        ([torch.ones(2)], "holds list instead"),
        ({}, "holds dict instead"),
        ({7: torch.ones(2)}, "'7', no name"),
        ({"a": torch.ones(2).to_sparse()}, "a is of a kind not served"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "a is of a kind not served"),
        ({"a": torch.ones(1).expand(10**9)}, "a is larger than its data"),
    ],
)
def test_what_is_no_weight_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / PICKLE)
    with pytest.raises(WeightsError, match=f"{words}.*safetensors"):
        here(tmp_path)


def here(folder: Path) -> None:
    """The conversion without its process."""
    torch_convert.convert_file(
        folder / PICKLE, folder / WEIGHTS, tied_head=False, told=lambda _: None
    )


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_damaged_file_is_refused(tmp_path: Path, share: float) -> None:
    torch.save({"a": torch.ones(1000)}, tmp_path / PICKLE)
    whole = (tmp_path / PICKLE).read_bytes()
    (tmp_path / PICKLE).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(WeightsError, match=rf"{PICKLE} (cannot be read|holds code)"):
        here(tmp_path)


def test_every_kind_of_tensor_comes_through(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    tensors = {str(dtype): (torch.randn(3, 5, generator=random) * 50).to(dtype) for dtype in TYPES}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.ones(0, 4)}
    tensors |= {"turned": tensors["torch.bfloat16"].T, "part": tensors["torch.float32"][1:, ::2]}
    torch.save(tensors, tmp_path / PICKLE)
    here(tmp_path)
    read_header(tmp_path / WEIGHTS)
    found = load_file(tmp_path / WEIGHTS)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no pytorch_model\.bin"):
        convert(tmp_path, Meter())
    (tmp_path / PICKLE_INDEX).write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    with pytest.raises(WeightsError, match="does not say which"):
        convert(tmp_path, Meter())
    (tmp_path / PICKLE_INDEX).write_text(
        '{"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}'
    )
    with pytest.raises(WeightsError, match="1 of the 1 files"):
        convert(tmp_path, Meter())


def test_an_interrupted_one_leaves_the_pickles(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "model", "bloom")

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(folder, Meter(stop))
    assert (folder / PICKLE).is_file()
    assert not [path for path in folder.iterdir() if path.name[0] == "." or path.name == WEIGHTS]


def test_the_one_pickled_file_of_another_name(tmp_path: Path) -> None:
    folder = tmp_path
    for name in ("model.pt", "other.pt"):
        (folder / name).write_bytes(b"pickled")
    with pytest.raises(WeightsError, match=r"which of model.pt, other.pt"):
        convert(folder, Meter())
    (folder / "other.pt").unlink()
    assert _names(folder) == {"model.pt": WEIGHTS}


def test_only_new_files_are_in_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is staged may be a person's own file under a second name."""
    seen: list[Path] = []

    def cut_off(folder: Path) -> None:
        seen.append(folder)
        raise NotPossible("no wall")

    monkeypatch.setattr(convert_pickles, "cut_off", cut_off)
    request = {"files": [(PICKLE, f".converted/{WEIGHTS}")], "tied_head": True}
    with pytest.raises(WeightsError, match=r"here it cannot: no wall\. .*safetensors"):
        convert_pickles.work(request, lambda _: None)
    assert seen == [Path(".converted")]


def test_old_releases_of_torch_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(WeightsError, match=r"torch 2.9.1\+cpu cannot read .* 'torch>=2.10'"):
        here(tmp_path)
