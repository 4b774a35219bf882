"""Which file a SOURCE means on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from open_llm_server import Registry
from open_llm_server.config.cards import cards
from open_llm_server.config.models import ModelSpec, Source, local_path
from open_llm_server.config.weights import find_weights
from open_llm_server.errors import ConfigurationError, WeightsError


def found(text: str, base: Path, *, kind: str | None = None, **settings: str) -> Source | None:
    spec = ModelSpec.parse(text)
    card = cards().get(spec.family)
    family = Registry.get(card.family if card else spec.family)
    if kind:
        family = type("Other", (family,), {"weights": kind})
    config = card.defaults if card else {}
    return find_weights(spec, family, card, base, {"engine": "llama.cpp", **config, **settings})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        *("one/a.gguf", "one/readme.md", "two/a.gguf", "two/b.gguf", "empty/x.bin"),
        "checkpoint/config.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for part in (1, 2, 3):
        (tmp_path / "split").mkdir(exist_ok=True)
        (tmp_path / "split" / f"m-0000{part}-of-00003.gguf").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("llama@./one/a.gguf", "one/a.gguf"),
        ("llama@one/a.gguf", "one/a.gguf"),
        ("llama@./one/../one/a.gguf", "one/a.gguf"),
        ("llama@./one", "one/a.gguf"),
        ("llama@./two#b.gguf", "two/b.gguf"),
        ("llama@./split", "split/m-00001-of-00003.gguf"),
        ("vicuna@./one", "one/a.gguf"),
    ],
)
def test_files(folder: Path, text: str, file: str) -> None:
    source = found(text, folder)
    assert source is not None
    assert Path(source.location).is_absolute()
    assert local_path(source) == folder / file


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("llama", WeightsError, "start llama@PATH.gguf"),
        ("llama@name.gguf:v2", WeightsError, r"':v2' as its revision.*llama@\./name\.gguf"),
        ("llama@./one/a.gguf:v2", WeightsError, "':v2' was taken for part of the path"),
        ("llama@empty", WeightsError, "llama@./empty"),
        ("llama@./none.gguf", WeightsError, "none.gguf"),
        ("llama@./empty", WeightsError, r"no \*.gguf"),
        ("llama@./two", ConfigurationError, r"2 models \(a.gguf, b.gguf\).*#FILE.gguf"),
        ("llama@./two#c.gguf", WeightsError, "c.gguf"),
        ("llama@./one/a.gguf#b.gguf", ConfigurationError, "needs a folder"),
        ("llama@builtin:none.gguf", WeightsError, "none.gguf"),
        ("fake@./one", ConfigurationError, "takes no weights"),
        ("dolly@org/name#a.gguf", ConfigurationError, "leave '#a.gguf' out"),
        ("bloom@./one/a.gguf", WeightsError, r"a\.gguf is a file.*bloom@/path.*family llama"),
        ("llama@./checkpoint", WeightsError, r"no \*\.gguf.*a family on torch"),
        ("bloom@./one#a.gguf", ConfigurationError, "leave '#a.gguf' out"),
        ("tiny-torch@./one/a.gguf", WeightsError, "tiny-torch@/path/to/folder"),
    ],
)
def test_refusals(folder: Path, text: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        found(text, folder)


@pytest.mark.parametrize(
    "text",
    ["vicuna", "flan-t5", "dolly@org/name:v2", "llama@one/sub#a.gguf", "bloom@store:org--name"],
)
def test_ids_of_a_hub_and_of_the_store_are_left_as_they_are(folder: Path, text: str) -> None:
    source, spec = found(text, folder), ModelSpec.parse(text)
    assert source == (spec.source or Source.parse(cards()[spec.family].source or ""))
    assert source.kind in ("hub", "store")


def test_a_family_without_weights(folder: Path) -> None:
    assert found("fake", folder) is None


def test_a_family_that_loads_folders(folder: Path) -> None:
    source = found("llama@./two", folder, kind="folder")
    assert source is not None
    assert local_path(source) == folder / "two"


@pytest.mark.parametrize(
    ("name", "engine", "location"),
    [
        ("tiny", "llama.cpp", "tiny/tiny-q8_0.gguf"),
        ("tiny", "torch", "tiny/hf"),
        ("tiny-torch", "torch", "tiny/hf"),
        ("tiny-torch", "llama.cpp", "tiny/tiny-q8_0.gguf"),
    ],
)
def test_the_engine_decides_which_built_in_weights(name: str, engine: str, location: str) -> None:
    source = found(name, Path("/"), engine=engine)
    assert source is not None
    assert (source.kind, source.location) == ("builtin", location)


def test_a_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    source = found("llama@~/one", Path("/"))
    assert source is not None
    assert local_path(source) == folder / "one/a.gguf"


@pytest.mark.parametrize("text", ["llama@./pipe", "llama@./one#pipe.gguf", "bloom@./pipe"])
def test_pipes_are_no_weights(folder: Path, text: str) -> None:
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "one" / "pipe.gguf")
    with pytest.raises(WeightsError, match="is not a regular file"):
        found(text, folder)
