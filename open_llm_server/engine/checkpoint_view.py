"""Folders that hold what a library may see of a checkpoint, and nothing else, while it loads.

Weights as links, settings written anew with the keys that `checkpoint_keys` knows. Whatever else
lies in the checkpoint's own folder (programs, adapters, settings of a later release) is out of a
library's sight. Knows no library.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .checkpoint_keys import plain_adapter, plain_config, plain_tokenizer
from .torch_checkpoint import (
    INDEX,
    TOKENIZER_CONFIG,
    TOKENIZERS,
    WEIGHTS,
    Checkpoint,
    read_json,
)

_TOKENS = ("special_tokens_map.json", "added_tokens.json")
_PREFIX = "open-llm-server-"
"""A server that starts removes folders so named that no living process holds a lock on, such as one
that a process left which was killed while it loaded (`supervisor_sockets`)."""
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@contextmanager
def model_view(checkpoint: Checkpoint) -> Iterator[Path]:
    """What the weights are loaded from. Raises WeightsError for types that
    `checkpoint_keys` does not know."""
    contents = {"config.json": plain_config(checkpoint.config)}
    if [path.name for path in checkpoint.weights] != [WEIGHTS]:
        table = read_json(checkpoint.folder / INDEX)["weight_map"]
        contents[INDEX] = {"metadata": {}, "weight_map": table}
    with _view(checkpoint.weights, contents) as folder:
        yield folder


@contextmanager
def tokenizer_view(checkpoint: Checkpoint) -> Iterator[Path]:
    """What a tokenizer older than tokenizer.json is made from."""
    names = [*_TOKENS, *(name for group in TOKENIZERS for name in group)]
    settings = plain_tokenizer(read_json(checkpoint.folder / TOKENIZER_CONFIG, needed=False))
    contents = {"config.json": plain_config(checkpoint.config), TOKENIZER_CONFIG: settings}
    with _view([checkpoint.folder / name for name in names], contents) as folder:
        yield folder


@contextmanager
def adapter_view(adapter: Path) -> Iterator[Path]:
    """What an adapter is merged from."""
    settings = plain_adapter(read_json(adapter / ADAPTER)) | {"inference_mode": True}
    with _view([adapter / ADAPTER_WEIGHTS], {ADAPTER: settings}) as folder:
        yield folder


@contextmanager
def _view(links: Sequence[Path], contents: Mapping[str, Mapping[str, Any]]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        held = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            for path in links:
                if path.is_file():
                    (folder / path.name).symlink_to(path.resolve())
            for file, content in contents.items():
                (folder / file).write_text(json.dumps(content), encoding="utf-8")
            yield folder
        finally:
            os.close(held)
