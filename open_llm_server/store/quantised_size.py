"""How large weights will be when they are quantised, before they are: rather too much than too
little.

Counts tensors where their headers are on this machine, else goes by what 16 bits become. Knows
nothing of disks, nor how it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..engine import gguf, safetensors_header
from ..engine.gguf_format import Tensor
from ..errors import WeightsError
from .gate import unsurprised

SHARE = {"q8_0": 0.54, "q4_k_m": 0.37, "int8": 1.0}
"""What is left of weights of 16 bits; of a checkpoint, nobody knows how much are embeddings, which
stay as they are."""
_SPARE = 1.05
_BYTES = {"q8_0": 34 / 32, "q4_k_m": 2 * SHARE["q4_k_m"]}
"""Of one weight; of q4_k_m on average, because some matrices get more bits."""
_BLOCK = {"q8_0": 32, "q4_k_m": 256}
_TABLES = ("embed", "shared.", "wte.", "relative_attention_bias")
"""In names of matrices that are looked up in, not multiplied with."""


def bytes_after(scheme: str, root: Path | None, files: Sequence[str], total: int) -> int:
    """Bytes of what `scheme` makes of `files`, which have `total` bytes together.

    `root`: the folder that they are in, where they are on this machine.
    """
    found = None
    if root is not None:
        # What is wrong with a file, the gate says when its turn comes.
        with suppress(WeightsError), unsurprised(root):
            found = _checkpoint(root, files) if scheme == "int8" else _gguf(scheme, root / files[0])
    return int(_SPARE * (SHARE[scheme] * total if found is None else found))


def _gguf(scheme: str, main: Path) -> float:
    header = gguf.read_header(main)
    whole = sum(part.file_bytes for part in (header, *header.shards))
    rest = whole - sum(tensor.data_bytes for tensor in header.all_tensors)
    return rest + sum(_tensor(scheme, tensor) for tensor in header.all_tensors)


def _tensor(scheme: str, tensor: Tensor) -> float:
    if len(tensor.shape) < 2:
        return max(tensor.data_bytes, 4 * tensor.elements)
    if tensor.shape[0] % _BLOCK[scheme] == 0:
        return _BYTES[scheme] * tensor.elements
    # rows that blocks do not fill get smaller blocks of more bits, or none at all
    return (_BYTES["q8_0"] if tensor.shape[0] % _BLOCK["q8_0"] == 0 else 2.0) * tensor.elements


def _checkpoint(root: Path, files: Sequence[str]) -> float | None:
    weights = [name for name in files if name.endswith(".safetensors")]
    size = float(sum((root / name).stat().st_size for name in files if name not in weights))
    for name in weights:
        for tensor, facts in safetensors_header.read_header(root / name).tensors.items():
            linear = len(facts.shape) == 2 and not any(word in tensor for word in _TABLES)
            elements = facts.shape[0] * facts.shape[1] if linear else 0
            size += elements + 4 * facts.shape[0] if linear else facts.data_bytes
    return size if weights else None
