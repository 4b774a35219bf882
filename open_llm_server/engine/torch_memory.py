"""How long a slot of a torch model may be, given the memory of its device."""

from __future__ import annotations

from typing import Any

import torch

from . import memory
from .fit_torch import Cache


def fit_context(
    config: Any,
    wanted: int | None,
    sequences: int,
    dtype: torch.dtype,
    device: str,
    *,
    force: bool = False,
) -> int:
    """Tokens for each of `sequences`, prompt and answer together. `config`: transformers' own."""
    cache = Cache.of(config.to_dict())
    name = getattr(config, "name_or_path", "").rstrip("/").rpartition("/")[2] or config.model_type
    return memory.fit_context(
        name,
        wanted,
        trained=cache.trained,
        sequences=sequences,
        token_bytes=cache.values * dtype.itemsize,
        free=_free(device),
        moving=1 if sequences > 1 else 0,
        unbounded=cache.unbounded,
        force=force,
    )


def _free(device: str) -> int:
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        devices = range(torch.cuda.device_count()) if device == "auto" else [0]
        return sum(torch.cuda.mem_get_info(index)[0] for index in devices)
    return memory.free_memory()
