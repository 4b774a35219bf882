"""How large quantised weights are taken to be before they are: by their tensors, or by 16 bits."""

from __future__ import annotations

import json
from pathlib import Path

import ggufs
import pytest

from open_llm_server.store.quantised_size import bytes_after

MB = 10**6


@pytest.mark.parametrize(("scheme", "share"), [("q8_0", 0.57), ("q4_k_m", 0.39), ("int8", 1.05)])
def test_what_is_not_here_counts_as_16_bits(scheme: str, share: float) -> None:
    assert bytes_after(scheme, None, ["m.gguf"], 100 * MB) == pytest.approx(
        100 * MB * share, rel=0.01
    )


def test_32_bits_become_a_quarter(tmp_path: Path) -> None:
    source = ggufs.small(tmp_path)
    size = source.stat().st_size
    assert 0.27 * size < bytes_after("q8_0", tmp_path, [source.name], size) < 0.4 * size


def test_a_file_that_cannot_be_read_is_the_gates_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert bytes_after("q8_0", tmp_path, ["m.gguf"], 1000) == int(1.05 * 540)


def test_a_checkpoint_keeps_its_embeddings(tmp_path: Path) -> None:
    shapes = {"embed_in.weight": [1000, 100], "dense.weight": [100, 400], "dense.bias": [100]}
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))
    (tmp_path / "config.json").write_bytes(bytes(50))
    found = bytes_after("int8", tmp_path, ["config.json", path.name], path.stat().st_size)
    assert found == int(1.05 * (50 + 200_000 + 40_000 + 400 + 200))
