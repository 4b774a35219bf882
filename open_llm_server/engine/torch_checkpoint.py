"""A checkpoint's folder as a hub gives it: what it is, and whether this server reads it.

Owns config.json, generation_config.json and the names of the files. Looks into weights no further
than tells a download that stopped halfway. Imports neither torch nor transformers, so that a
command line can refuse a folder at once; knows nothing of devices.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import WeightsError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
GENERATION = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
FAMILIES = {
    "t5": "flan-t5",
    "bloom": "bloom",
    "gpt_neox": "gpt-neox (or dolly, or stablelm for its alpha models)",
    "stablelm": "stablelm",
    "llama": "llama (as a GGUF file)",
    "bert": "minilm",
}
"""Which family takes a model type."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
TOKENIZERS = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("spiece.model",),
    ("tokenizer.model",),
    ("vocab.txt",),
)
"""Files that hold a tokenizer; one group is enough."""
LARGEST_JSON = 64 * 1024**2
LONGEST_HEADER = 100 * 1024**2
"""Bytes that the format allows for the header of a safetensors file."""
_POINTER = b"version https://git-lfs"
_SHOWN = 3


@dataclass(frozen=True)
class Checkpoint:
    """A folder that `read_checkpoint` found usable."""

    folder: Path
    config: dict[str, Any]
    """config.json."""
    generation: dict[str, Any]
    """generation_config.json; empty where there is none."""

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", ""))

    @cached_property
    def weights(self) -> tuple[Path, ...]:
        """The safetensors files that hold the model, in order of their names."""
        return _weights(self.folder)


def read_checkpoint(folder: Path, *, model_types: Collection[str]) -> Checkpoint:
    """The checkpoint in `folder`, if its config.json names one of `model_types`.

    Raises WeightsError, which says what is wrong and what to do about it.
    """
    _refuse_other_things(folder)
    config = read_json(folder / "config.json")
    generation = read_json(folder / GENERATION, needed=False)
    tokenizer = read_json(folder / TOKENIZER_CONFIG, needed=False)
    _refuse_type(folder, config, model_types)
    for name, content in (
        ("config.json", config),
        (GENERATION, generation),
        (TOKENIZER_CONFIG, tokenizer),
    ):
        if "auto_map" in _keys(content):
            raise WeightsError(
                f"{folder / name} asks for code of its own (auto_map), and this server runs none "
                "from a checkpoint; use a checkpoint of the same model in the format of "
                "transformers itself"
            )
    if config.get("quantization_config"):
        raise WeightsError(
            f"the weights in {folder} are quantised (quantization_config in config.json), which "
            "this engine does not compute with; use the checkpoint they were made from"
        )
    checkpoint = Checkpoint(folder, config, generation)
    for path in checkpoint.weights:
        check_safetensors(path)
    _refuse_without_tokenizer(folder)
    return checkpoint


def model_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the weights on disk."""
    return sum(path.stat().st_size for path in checkpoint.weights)


def _refuse_other_things(folder: Path) -> None:
    if folder.is_file():
        if folder.suffix == ".gguf":
            raise WeightsError(
                f"{folder} is a GGUF file, which family llama serves: start llama@{folder}; this "
                "family reads a checkpoint's folder (config.json, *.safetensors, tokenizer.json)"
            )
        raise WeightsError(
            f"{folder} is a file; name the checkpoint's folder, the one that holds config.json"
        )
    if not folder.is_dir():
        raise WeightsError(
            f"there is no folder {folder}; name one that holds a checkpoint (config.json, "
            "*.safetensors, tokenizer.json)"
        )
    if not (folder / "config.json").is_file():
        if found := _names(folder, (".gguf",)):
            raise WeightsError(
                f"{folder} holds GGUF files, which family llama serves: "
                f"start llama@{folder / found[0]}"
            )
        raise WeightsError(
            f"there is no config.json in {folder}; name the folder of a whole checkpoint "
            "(config.json, *.safetensors, tokenizer.json)"
        )


def _refuse_type(folder: Path, config: dict[str, Any], model_types: Collection[str]) -> None:
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in model_types:
        return
    wanted = " or ".join(repr(name) for name in sorted(model_types))
    if not isinstance(model_type, str) or not model_type:
        raise WeightsError(
            f"{folder / 'config.json'} names no model_type, and this family reads {wanted}; "
            "download the file again"
        )
    family = FAMILIES.get(model_type)
    advice = (
        f"family {family} serves it"
        if family
        else "use a checkpoint of one of this server's "
        "families (`open-llm-server models` lists them), or its GGUF with family llama"
    )
    raise WeightsError(
        f"{folder} holds a model of type {model_type!r}, and this family reads {wanted}; {advice}"
    )


def _weights(folder: Path) -> tuple[Path, ...]:
    """Which files hold the weights: of both forms, the one that the library prefers."""
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if (folder / INDEX).is_file():
        return _shards(folder)
    if found := _names(folder, PICKLED):
        raise WeightsError(
            f"the weights in {folder} are pickled ({_some(found)}), and unpickling runs whatever "
            f"code they hold; convert them to {WEIGHTS} where you trust them (load with "
            "transformers, then model.save_pretrained), or download a revision that has it"
        )
    if (folder / "adapter_config.json").is_file():
        raise WeightsError(
            f"{folder} holds an adapter, not a whole model; name the model's folder, and the "
            f"adapter with --lora {folder}"
        )
    raise WeightsError(f"there is no {WEIGHTS} in {folder}; download the whole checkpoint")


def _shards(folder: Path) -> tuple[Path, ...]:
    table = read_json(folder / INDEX).get("weight_map")
    names = set(table.values()) if isinstance(table, dict) else set()
    if not names or not all(_is_shard(name) for name in names):
        raise WeightsError(
            f"{folder / INDEX} does not say which *.safetensors files of its folder hold the "
            "weights; download it again"
        )
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise WeightsError(
            f"{len(missing)} of the {len(names)} files of the weights are missing in {folder}: "
            f"{_some(missing)}; download them too"
        )
    return tuple(folder / name for name in sorted(names))


def _is_shard(name: Any) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and not {*"/\\\0"} & {*name}


def check_safetensors(path: Path) -> None:
    """Compares the length of a safetensors file with what its header promises; raises WeightsError.

    The format: 8 bytes, little endian, give the length of a JSON object, which gives each tensor's
    place in the rest of the file (`data_offsets`).
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
            length = int.from_bytes(start[:8], "little")
            file.seek(8)
            header = file.read(length) if length <= min(size - 8, LONGEST_HEADER) else b""
    except OSError as error:
        raise _unreadable(path, error) from error
    if start == _POINTER:
        raise WeightsError(
            f"{path} is a pointer of Git LFS instead of the weights; run `git lfs pull` in its "
            "folder"
        )
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"]
        whole = max(ends) == size - 8 - length
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise WeightsError(
            f"{path} ({size:,} bytes) is cut short or is no safetensors file; download it again"
        )


def _refuse_without_tokenizer(folder: Path) -> None:
    if not any(all((folder / name).is_file() for name in group) for group in TOKENIZERS):
        raise WeightsError(
            f"there is no tokenizer.json in {folder}; download it from where the weights came from"
        )


def read_json(path: Path, *, needed: bool = True) -> dict[str, Any]:
    """A JSON object; empty where an unneeded file is missing. Raises WeightsError."""
    if not needed and not path.is_file():
        return {}
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise WeightsError(f"{path} is too large to be what its name says; download it again")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a JSON object; download it again")
    return content


def _unreadable(path: Path, error: OSError) -> WeightsError:
    reason = error.strerror or str(error)
    return WeightsError(f"{path} cannot be read: {reason}; check its permissions")


def _keys(value: Any) -> Iterator[str]:
    """The keys of every object within `value`."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _names(folder: Path, endings: tuple[str, ...]) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(endings))


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
