"""Damaged GGUF files: refused in words, or harmless to the llama.cpp that loads them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ggufs import SMALL, byte_pairs, write_model
from mutated import LOADED, REFUSED, Anatomy, load_all, mutations

from open_llm_server.engine.gguf import read_header
from open_llm_server.errors import WeightsError

pytestmark = pytest.mark.weights

COUNT, LOADS = 500, 15
"""Of each vocabulary: files that are read, and of the accepted ones, files that are loaded."""
LIMIT_S = 5.0
LOADS_LIMIT_S = 300.0


def pieces(path: Path) -> None:
    write_model(path, SMALL)


def pairs(path: Path) -> None:
    write_model(path, SMALL, add_vocabulary=byte_pairs("llama-bpe"))  # type: ignore[arg-type]  # a writer


@pytest.mark.parametrize("make", [pieces, pairs])
def test_mutated_files_are_refused_or_harmless(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    whole = tmp_path / "whole.gguf"
    make(whole)
    accepted: dict[Path, str] = {}
    refused = 0
    for place, (what, content) in enumerate(mutations(Anatomy(whole), COUNT, seed=2026)):
        path = tmp_path / f"{place}.gguf"
        path.write_bytes(content)
        began = time.monotonic()
        try:
            read_header(path)
        except WeightsError as error:
            assert str(path) in error.message  # noqa: PT017 (both outcomes are right)
            refused += 1
        else:
            if len(accepted) < LOADS:
                accepted[path] = what
        assert time.monotonic() - began < LIMIT_S, what
        if path not in accepted:
            path.unlink()
    assert refused > COUNT / 4
    assert len(accepted) == LOADS
    fates = load_all([whole, *accepted], limit_s=LOADS_LIMIT_S)
    assert fates.pop(whole) == LOADED
    bad = {accepted[path]: fate for path, fate in fates.items() if fate not in (LOADED, REFUSED)}
    assert not bad
