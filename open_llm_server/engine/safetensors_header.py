"""Reads and judges the header of a safetensors file, before any library maps the file.

Refuses what is damaged or made to do damage: every tensor lies where it says, of the size that it
says, one after another, to the last byte. Standard library only: one bounded read, no tensor data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import WeightsError

LONGEST_HEADER = 16 * 1024**2
"""Bytes: some 100,000 tensors. The format allows more, and no checkpoint that is served here has
more than some thousands in a file."""
MOST_DIMENSIONS = 8
LONGEST_NAME = 512
METADATA = "__metadata__"
BITS: dict[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
"""Of one element of each type in the format."""
_POINTER = b"version https://git-lfs"
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How torch's files begin, zipped or not; as the length of a header, too long a one."""


@dataclass(frozen=True, slots=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    data_bytes: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    file_bytes: int


def read_header(path: Path) -> Header:
    """Raises WeightsError, which names the file, the fault and what to do.

    The format: 8 bytes, little endian, give the length of a JSON object, which gives each tensor's
    place in the rest of the file (`data_offsets`).
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
            length = int.from_bytes(start[:8], "little")
            file.seek(8)
            text = file.read(length) if length <= min(size - 8, LONGEST_HEADER) else None
    except OSError as error:
        reason = error.strerror or str(error)
        raise WeightsError(f"{path} cannot be read: {reason}; check its permissions") from error
    if start == _POINTER:
        raise WeightsError(
            f"{path} is a pointer of Git LFS instead of the weights; run `git lfs pull` in its "
            "folder"
        )
    if length > LONGEST_HEADER and start.startswith(_PICKLES):
        raise WeightsError(
            f"{path} is a pickled file under another name, and unpickling runs whatever code it "
            "holds; use a checkpoint whose weights are safetensors"
        )
    if text is None or size < 8:
        _refuse(path, f"its {size:,} bytes are cut short or begin with no header")
    tensors, metadata = _entries(path, text, size - 8 - length)
    return Header(path, tensors, metadata, size)


def _entries(path: Path, text: bytes, data: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, which fill `data` bytes, and the metadata."""
    if not text.startswith(b"{"):
        _refuse(path, "its header is no JSON object")
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"its header is not JSON ({str(error)[:80]})")
    metadata = content.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        _refuse(path, f"its {METADATA} is not texts by name")
    places: list[tuple[int, int, str]] = []
    tensors = {}
    for name, entry in content.items():
        begin, end, tensors[name] = _tensor(path, name, entry, data)
        places.append((begin, end, name))
    _refuse_gaps(path, sorted(places), data)
    return tensors, metadata


def _tensor(path: Path, name: str, entry: Any, data: int) -> tuple[int, int, Tensor]:
    shown = name[:80]
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        _refuse(path, f"{shown!r} is no name of a tensor")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"the tensor {shown} is not given by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        _refuse(path, f"the tensor {shown} has the unknown type {str(dtype)[:40]!r}")
    if not _are_counts(shape) or len(shape) > MOST_DIMENSIONS:
        _refuse(path, f"the tensor {shown} has no shape")
    if not _are_counts(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= data:
        _refuse(path, f"the tensor {shown} lies outside of the file: it is cut short")
    bits = BITS[dtype]
    for length in shape:
        bits *= length
    begin, end = offsets
    if bits != 8 * (end - begin):
        _refuse(path, f"the tensor {shown} has a shape of {bits // 8:,} bytes in {end - begin:,}")
    return begin, end, Tensor(dtype, tuple(shape), end - begin)


def _refuse_gaps(path: Path, places: list[tuple[int, int, str]], data: int) -> None:
    at = 0
    for begin, end, name in places:
        if begin != at:
            _refuse(path, f"the tensor {name[:80]} begins at {begin:,} instead of {at:,}")
        at = end
    if at != data or not places:
        _refuse(path, f"its tensors end {abs(data - at):,} bytes before the file does")


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 2**63 for one in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ about which of two values of one name counts; so there must be one."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name is there twice")
    return content


def _refuse(path: Path, fault: str) -> NoReturn:
    raise WeightsError(f"{path} is damaged or no safetensors file: {fault}; download it again")
