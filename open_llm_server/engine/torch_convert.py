"""Pickled weights to safetensors, one file at a time.

Reads with torch's restricted unpickler alone, and believes nothing that it read. To be called in
a process without network that may do nothing else: releases of that unpickler have had holes.
Knows no model but for which of its tensors are one.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import WeightsError
from .torch_writing import TYPES, Coming, write

SAFE_SINCE = (2, 10)
"""Older releases of torch run code from some files even so (CVE-2026-24747)."""
LONGEST_NAME = 512
_TABLE = "shared.weight"
_TIED_TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""What T5 calls its one table of embeddings as well."""
_HEADS = ("lm_head.weight", "embed_out.weight")
_WAY_OUT = "use a revision or another publisher's copy that has safetensors"


def convert_file(
    source: Path, target: Path, *, tied_head: bool, told: Callable[[int], None]
) -> None:
    """Writes the tensors of `source` to `target`, under their names.

    `tied_head`: config.json says that the output matrix is the table of embeddings. `told` counts
    bytes written. Raises WeightsError.
    """
    _refuse_old_torch(torch.__version__)
    tensors = _checked(_load(source), source.name)
    kept = _without_twins(tensors, tied_head)
    coming = [
        Coming(name, tensor.dtype, tuple(tensor.shape), partial(kept.__getitem__, name))
        for name, tensor in kept.items()
    ]
    write(target, coming, told)


def _refuse_old_torch(version: str) -> None:
    numbers = tuple(int(part) for part in version.split("+", maxsplit=1)[0].split(".")[:2])
    if numbers < SAFE_SINCE:
        raise WeightsError(
            f"torch {version} cannot read pickled weights safely; update it (pip install "
            f"'torch>={'.'.join(map(str, SAFE_SINCE))}'), or {_WAY_OUT}"
        )


def _load(source: Path) -> Any:
    try:
        return torch.load(
            source,
            map_location="cpu",
            weights_only=True,
            mmap=zipfile.is_zipfile(source),  # files of torch before 1.6 are none
        )
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{source.name} holds code or objects beside its weights, and is not converted "
            f"({_brief(error)}); {_WAY_OUT}"
        ) from error
    except MemoryError as error:
        raise WeightsError(
            f"{source.name} wants more memory than its size explains, or than there is; {_WAY_OUT}"
        ) from error
    except Exception as error:  # whatever a damaged file leads to
        raise WeightsError(
            f"{source.name} cannot be read ({_brief(error)}); download it again, or {_WAY_OUT}"
        ) from error


def _checked(content: Any, file: str) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not content:
        raise WeightsError(
            f"{file} holds {type(content).__name__} instead of tensors by name; {_WAY_OUT}"
        )
    for name, tensor in content.items():
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
            raise WeightsError(f"{file} holds {str(name)[:80]!r}, no name of a weight; {_WAY_OUT}")
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            raise WeightsError(
                f"{file}: {name[:80]} is {type(tensor).__name__} instead of a tensor, as in files "
                f"that training goes on from; {_WAY_OUT}"
            )
        if tensor.layout is not torch.strided or tensor.dtype not in TYPES:
            kind = f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
            raise WeightsError(f"{file}: {name[:80]} is of a kind not served ({kind}); {_WAY_OUT}")
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise WeightsError(f"{file}: {name[:80]} is larger than its data; {_WAY_OUT}")
    return cast("dict[str, Tensor]", dict(content))


def _without_twins(tensors: Mapping[str, Tensor], tied_head: bool) -> dict[str, Tensor]:
    """Without second names of one tensor that the model ties by itself; others are kept."""
    known: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        known.setdefault(place, []).append(name)
    twins: set[str] = set()
    for names in known.values():
        if _TABLE in names:
            twins.update(name for name in names if name in _TIED_TABLES)
        if tied_head:
            heads = [name for name in names if name in _HEADS]
            twins.update(heads if len(heads) < len(names) else [])
    return {name: tensor for name, tensor in tensors.items() if name not in twins}


def _brief(error: Exception) -> str:
    """The first sentence; what follows is advice to programmers to read the file unsafely."""
    words = " ".join(str(error).split()) or type(error).__name__
    found = words.find("Unsupported")
    return words[max(0, found) :].split(". ")[0][:200]
