"""Fuzzes the gate for a checkpoint's settings: an input is a config.json, a modules.json and an
index of the weights' files."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from .guided import main

BETWEEN = b"\n---\n"


def seeds() -> list[bytes]:
    """Settings as they are published, and some that are refused."""
    config = {"model_type": "bert", "vocab_size": 8, "hidden_act": "gelu", "custom_pipelines": {}}
    steps = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    rope = {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    asking = {"model_type": "t5", "auto_map": {"AutoModel": "m.M"}}
    hooks = {"model_type": "t5", "_attn_implementation": {"": "sdpa"}, "trust_remote_code": False}
    index = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    return [
        BETWEEN.join(json.dumps(part).encode() for part in (content, steps, index))
        for content in (config, rope, asking, hooks)
    ]


def read(path: Path) -> object:
    from open_llm_server.engine.checkpoint_keys import CONFIG, plain_config
    from open_llm_server.engine.torch_checkpoint import (
        read_checkpoint,
        read_json,
        refuse_settings,
    )
    from open_llm_server.errors import WeightsError

    config, _, rest = path.read_bytes().partition(BETWEEN)
    modules, _, index = rest.partition(BETWEEN)
    folder = path.with_name("checkpoint")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(config)
    (folder / "modules.json").write_bytes(modules or b"[]")
    (folder / "model.safetensors.index.json").write_bytes(index or b"{}")
    with suppress(WeightsError):  # there are no weights at least
        read_checkpoint(folder, model_types=CONFIG)
    refuse_settings(folder)
    content = read_json(folder / "config.json")
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG:
        return None
    shown = plain_config(content)
    assert set(shown) <= CONFIG[kind]
    return shown


if __name__ == "__main__":
    main(read, seeds(), module="open_llm_server.engine.torch_checkpoint")
