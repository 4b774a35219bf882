"""Quantises a checkpoint's linear layers to 8 bits, and measures it before and after: the work of
a child process.

Started by `quantise` through `child_process`, so that its memory is given back as a whole. Both
measurements are of the engine that serves, on this machine's CPU.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine import int8_format, torch_int8
from ..engine.safetensors_header import read_header
from ..engine.torch_checkpoint import Checkpoint, read_checkpoint, read_json
from ..engine.torch_devices import DTYPES, choose_dtype
from ..engine.torch_engine import TorchEngine
from ..engine.torch_load import load_model
from . import measure
from .child_work import Say

STREAMS = (1, 8)
"""Answers at once that speed is measured with; the gain is the smaller of both."""
_TYPES = {"F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class _Found:
    perplexity: float
    text: str
    speeds: Sequence[float]


def work(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Writes `target` from the checkpoint in `source`; returns perplexities, on which text, and
    how many times as fast it is. Raises StartError.

    `request`: source, target (paths; the folder of `target` is empty), threads.
    """
    source, target, threads = Path(request["source"]), Path(request["target"]), request["threads"]
    checkpoint = _checkpoint(source)
    before = _measure(checkpoint, threads, say, "before")
    _save(checkpoint, target, say)
    _complete(source, target.parent)
    after = _measure(_checkpoint(target.parent), threads, say, "after")
    pairs = zip(before.speeds, after.speeds, strict=True)
    return {
        "before": before.perplexity,
        "after": after.perplexity,
        "text": before.text,
        "gain": min(new / old for old, new in pairs),
        "dtype": str(choose_dtype("auto", "cpu")).removeprefix("torch."),
    }


def _checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, of whatever type it is."""
    config = read_json(folder / "config.json")
    return read_checkpoint(folder, model_types=[str(config.get("model_type"))])


def _save(checkpoint: Checkpoint, target: Path, say: Say) -> None:
    number = DTYPES[_stored_type(checkpoint)]
    # Some types of models do not fit into float16, and CPUs seldom compute with it.
    wide = DTYPES["float32"] if number is DTYPES["float16"] else number
    model = load_model(checkpoint, dtype=wide, device="cpu")
    total = torch_int8.bytes_of(model, number)
    say({"phase": "quantising", "total": total, "note": target.name})
    torch_int8.save(model, target, kept=number, told=lambda count: say({"done": count}))


def _stored_type(checkpoint: Checkpoint) -> str:
    """What most of the weights are stored as."""
    sizes: dict[str, int] = {}
    for path in checkpoint.weights:
        for tensor in read_header(path).tensors.values():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.data_bytes
    return _TYPES.get(max(sizes, key=lambda name: sizes[name]), "float32")


def _complete(source: Path, folder: Path) -> None:
    """Makes a whole checkpoint of the new weights' folder, for as long as it is measured."""
    for path in source.iterdir():
        if path.is_file() and ".safetensors" not in path.name:
            shutil.copyfile(path, folder / path.name)
    int8_format.mark(source / "config.json", folder / "config.json")


def _measure(checkpoint: Checkpoint, threads: int, say: Say, when: str) -> _Found:
    engine = TorchEngine.load(
        checkpoint.folder,
        model_types=[checkpoint.model_type],
        context_length=measure.WINDOW,
        slots=measure.SLOTS,
        threads=threads,
    )
    tokens = measure.read(engine)
    say({"phase": "measuring", "total": len(tokens) - 1, "note": f"perplexity {when}"})
    found = measure.perplexity_of(engine, tokens, lambda count: say({"done": count}))
    say({"phase": "measuring", "total": len(STREAMS), "note": f"speed {when}"})
    speeds = []
    for streams in STREAMS:
        speeds.append(measure.speed(engine, tokens, streams))
        say({"done": 1})
    text = measure.describe(engine, tokens)
    engine.close()
    del engine
    gc.collect()
    return _Found(found, text, speeds)
