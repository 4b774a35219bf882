"""File names of a hub's listing: which can become files here."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_llm_server.errors import WeightsError
from open_llm_server.store.hub_names import check_names

PLAIN = [
    "config.json",
    "model-00001-of-00002.safetensors",
    "1_Pooling/config.json",
    "onnx/model.onnx",
    ".gitattributes",
    "..config",
    "a..b",
    "Modèle.gguf",
    "模型.gguf",
    "console.json",
    "com10.txt",
    "a b (1).txt",
]
HOSTILE = [
    "../evil",
    "a/../../evil",
    "..",
    ".",
    "a/./b",
    "a//b",
    "a/",
    "",
    "/etc/passwd",
    "//server/share",
    "\\\\server\\share",
    "..\\evil",
    "a\\b",
    "C:\\evil",
    "C:/evil",
    "c:evil",
    "a\0b",
    "a\nb",
    "a\x1b[2Jb",
    "a\x7fb",
    "a\udc80b",
    "CON",
    "con.json",
    "a/nul",
    "NUL.tar.gz",
    "aux .txt",
    "COM1",
    "lpt9.log",
    "COM¹",
    "model.gguf.",
    "model.gguf ",
    "x" * 256,
    "é" * 128,
    "/".join(["x" * 200] * 6),
]


def test_what_models_have_is_taken() -> None:
    check_names(PLAIN, "org/name")


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_are_refused_and_named(name: str) -> None:
    with pytest.raises(WeightsError, match="org/name lists a file named") as caught:
        check_names(["config.json", name], "org/name")
    message = str(caught.value)
    assert message.isascii() or "…" in message
    assert message.isprintable()
    assert ascii(name)[:100] in message


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("README.md", "readme.md"),
        ("a/config.json", "A/other.json"),
        ("Modèle", "Mode\u0300le"),
        ("straße", "STRASSE"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("a/b", "A"),
        ("same", "same"),
        ("K", "\u212a"),  # the Kelvin sign
    ],
)
def test_names_that_are_one_file_on_some_systems_are_refused(one: str, other: str) -> None:
    with pytest.raises(WeightsError, match="is the same as"):
        check_names([one, other], "org/name")


@given(st.lists(st.text(min_size=1, max_size=12), max_size=4))
def test_what_is_taken_stays_in_its_folder(names: list[str]) -> None:
    try:
        check_names(names, "org/name")
    except WeightsError:
        return
    for name in names:
        assert not PurePosixPath(name).is_absolute()
        assert not PureWindowsPath(name).anchor
        assert ".." not in PurePosixPath(name).parts
        assert ".." not in PureWindowsPath(name).parts
    assert len({name.casefold() for name in names}) == len(names)
