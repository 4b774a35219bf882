"""How long a slot of a torch model may be, given the memory of its device."""

from __future__ import annotations

from typing import Any

import torch

from . import memory

_DEFAULT_ENCODER_DECODER = 2048
"""T5 has no longest position. It was trained with 512 tokens on each side, and reads more."""


def fit_context(
    config: Any, wanted: int | None, sequences: int, dtype: torch.dtype, device: str
) -> int:
    """Tokens for each of `sequences`, prompt and answer together. `config`: transformers' own."""
    if config.is_encoder_decoder:
        trained, token = _DEFAULT_ENCODER_DECODER, 2 * config.num_heads * config.d_kv
        layers = 2 * config.num_decoder_layers  # keys and values of prompts and of answers
    else:
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        token = 2 * size * (getattr(config, "num_key_value_heads", None) or heads)
        layers = config.num_hidden_layers
        own = getattr(config, "max_position_embeddings", None)
        # BLOOM's linear bias has no longest position; published models were trained with 2048.
        trained = int(own or getattr(config, "seq_length", None) or 2048)
    name = getattr(config, "name_or_path", "").rstrip("/").rpartition("/")[2] or config.model_type
    return memory.fit_context(
        name,
        wanted,
        trained=trained,
        sequences=sequences,
        token_bytes=token * layers * dtype.itemsize,
        free=_free(device),
        moving=1 if sequences > 1 else 0,
        unbounded=config.is_encoder_decoder or config.model_type == "bloom",
    )


def _free(device: str) -> int:
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        devices = range(torch.cuda.device_count()) if device == "auto" else [0]
        return sum(torch.cuda.mem_get_info(index)[0] for index in devices)
    return memory.free_memory()
