"""Checkpoints whose linear layers are stored in 8 bits: how such a folder says so. No torch.

model.safetensors holds, for a linear layer NAME, `NAME.weight` (I8, [outputs, inputs]) and
`NAME.weight_scale` (F32, [outputs]): a weight is its level times its output's scale. Everything
else is as it was, under the names of transformers' modules; what is tied is stored once. The
`quantization_config` of config.json is `METHOD`. It names no `quant_method`, on purpose: with one
that it does not know, transformers warns and takes levels for weights; without one it refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METHOD = {"open_llm_server": "int8", "format": 1}
KEY = "quantization_config"
SCALE = "_scale"
"""What follows a weight's name in the name of its scales."""


def is_int8(config: Mapping[str, Any]) -> bool:
    """Whether config.json says that the weights are in this format."""
    return config.get(KEY) == METHOD


def mark(source: Path, target: Path) -> None:
    """Writes the config.json `source`, which says nothing of it, as one that does."""
    config = json.loads(source.read_bytes()) | {KEY: METHOD}
    target.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
