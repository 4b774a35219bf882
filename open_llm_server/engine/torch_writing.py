"""Writes safetensors files tensor by tensor: memory for one at a time, and progress after each.

The format: 8 bytes, little endian, give the length of a JSON object, which gives each tensor's
type, shape and place; then the tensors' bytes. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Their names in the format; others are no weights of anything that is served here."""
_ALIGNMENT = 8


@dataclass(frozen=True)
class Coming:
    """A tensor of a file that is to be written; `make` gives it when its turn comes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write(path: Path, tensors: Iterable[Coming], told: Callable[[int], None]) -> None:
    """Writes `path` anew; `told` gets the bytes of each tensor. Raises OSError, and KeyError for
    a type that is not one of `TYPES`."""
    # Large elements first, so that each tensor begins at a multiple of its elements' size.
    ordered = sorted(tensors, key=lambda one: (-one.dtype.itemsize, one.name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for one in ordered:
        places = [at, at := at + one.bytes]
        header[one.name] = {
            "dtype": TYPES[one.dtype],
            "shape": list(one.shape),
            "data_offsets": places,
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for one in ordered:
            tensor = one.make()
            assert (tensor.dtype, tuple(tensor.shape)) == (one.dtype, one.shape)
            if one.bytes:
                flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                file.write(flat.numpy().data)
            told(one.bytes)
