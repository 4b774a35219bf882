"""Small GGUF files with random weights for tests, and vocabularies of other kinds for them."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.models import SMALL, Shape, write_model  # noqa: E402 - found by the path above

__all__ = [
    "SMALL",
    "TINY",
    "Shape",
    "byte_pairs",
    "small",
    "tiny_export",
    "tiny_float32",
    "write_model",
]

TINY = ROOT / "models" / "tiny"


def small(folder: Path, **changes: Any) -> Path:
    """A model of 150,000 parameters in float32, with 512 tokens and a context of 512."""
    shape = replace(SMALL, **changes)
    path = folder / f"{shape.label}.gguf"
    write_model(path, shape)
    return path


def tiny_float32(folder: Path) -> Path:
    """The built-in weights in float32, in which they compute what transformers computes."""
    path = folder / "tiny-f32.gguf"
    tiny_export().write_gguf(TINY / "hf", path, "f32")
    return path


def tiny_export() -> ModuleType:
    """What wrote the built-in weights: a script, in no package."""
    spec = importlib.util.spec_from_file_location("tiny_export", TINY / "export.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def byte_pairs(kind: str) -> object:
    """Adds a byte-pair vocabulary whose text is split as `kind` (tokenizer.ggml.pre) says."""

    def add(writer: gguf.GGUFWriter, size: int) -> None:
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in printable]
        letters = [chr(byte) for byte in printable]
        letters += [chr(256 + place) for place in range(len(others))]
        words = [a + b for a in "Aab" for b in "Aab"] + ["AAAA", "\u0120A", "\u0120\u0120"]
        merges = ["A A", "AA AA", "a b", "\u0120 A", "\u0120 \u0120"]
        tokens = [*letters, *words, "<|end|>"]
        tokens += [f"<|spare_{place}|>" for place in range(size - len(tokens))]
        normal = len(letters) + len(words)
        kinds = [gguf.TokenType.NORMAL] * normal + [gguf.TokenType.CONTROL] * (size - normal)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(kind)
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        writer.add_token_merges(merges)
        writer.add_eos_token_id(normal)
        writer.add_add_bos_token(False)

    return add
