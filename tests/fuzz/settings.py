"""Fuzzes the gate for a checkpoint's settings: an input is a config.json and a modules.json."""

from __future__ import annotations

import json
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
    return [
        json.dumps(content).encode() + BETWEEN + json.dumps(steps).encode()
        for content in (config, rope, asking, hooks)
    ]


def read(path: Path) -> object:
    from open_llm_server.engine.checkpoint_keys import CONFIG, plain_config
    from open_llm_server.engine.torch_checkpoint import read_json, refuse_settings

    config, _, modules = path.read_bytes().partition(BETWEEN)
    folder = path.with_name("checkpoint")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(config)
    (folder / "modules.json").write_bytes(modules or b"[]")
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
