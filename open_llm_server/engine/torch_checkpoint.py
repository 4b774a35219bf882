"""A checkpoint's folder as a hub gives it: what it is, and whether this server reads it.

Owns config.json, generation_config.json and the names of the files; the gate at every start. Which
keys ask for code, `checkpoint_keys` says; what weights must look like, `safetensors_header`.
Imports neither torch nor transformers, so that a command line can refuse a folder at once; knows
nothing of devices.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import WeightsError
from .checkpoint_keys import refuse_code, refuse_steps
from .int8_format import KEY as INT8_KEY
from .int8_format import is_int8
from .safetensors_header import Header, read_header

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
MODULES = "modules.json"
SIZES = frozenset({
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "type_vocab_size",
    "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "n_positions",
    "relative_attention_num_buckets", "relative_attention_max_distance",
    "n_layer", "n_head", "n_embed", "seq_length",
})  # fmt: skip
"""Keys of config.json that count something there must be; absent or null, the library's own."""
SETTINGS = (
    "config.json",
    GENERATION,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "preprocessor_config.json",
    "processor_config.json",
    "adapter_config.json",
    MODULES,
)
"""Small files in which libraries look for settings, ours or not."""
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

    @property
    def int8(self) -> bool:
        """Whether its linear layers are stored in 8 bits, as `int8_format` says."""
        return is_int8(self.config)

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
    _refuse_type(folder, config, model_types)
    _refuse_sizes(folder / "config.json", config)
    refuse_settings(folder)
    for key in ("quantization_config", "compression_config"):
        if config.get(key) and not (key == INT8_KEY and is_int8(config)):
            raise WeightsError(
                f"the weights in {folder} are quantised ({key} in config.json), which this engine "
                "does not compute with; use the checkpoint they were made from"
            )
    checkpoint = Checkpoint(folder, config, read_json(folder / GENERATION, needed=False))
    _check_weights(folder, checkpoint.weights)
    _refuse_without_tokenizer(folder)
    return checkpoint


def refuse_settings(folder: Path) -> None:
    """Raises WeightsError where a settings file of `folder`, or of a step of its modules.json,
    asks for code or leads elsewhere."""
    for name in SETTINGS:
        path = folder / name
        if path.is_file():
            refuse_code(path, load_json(path))
    modules = load_json(folder / MODULES) if (folder / MODULES).is_file() else []
    refuse_steps(folder / MODULES, modules)
    for step in modules if isinstance(modules, list) else ():
        for name in ("config.json", "sentence_bert_config.json"):
            path = folder / step.get("path", "") / name
            if path.is_file():
                refuse_code(path, load_json(path))


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


def _refuse_sizes(path: Path, config: dict[str, Any]) -> None:
    """What libraries divide by, and make tables of."""
    for key in sorted(SIZES & config.keys()):
        value = config[key]
        if value is not None and (type(value) is not int or value < 1):
            raise WeightsError(
                f"{path} gives {key} as {str(value)[:40]}, which is no size; download it again"
            )


def _weights(folder: Path) -> tuple[Path, ...]:
    """Which files hold the weights: of both forms, the one that the library prefers."""
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if (folder / INDEX).is_file():
        return _shards(folder)
    if found := _names(folder, PICKLED):
        converts = any(name.startswith("pytorch_model") for name in found)
        raise WeightsError(
            f"the weights in {folder} are pickled ({_some(found)}), and unpickling runs whatever "
            "code they hold; "
            + (
                "if you trust their publisher, have them converted: give `open-llm-server import` "
                "the same name as here, and --convert-pickles"
                if converts
                else f"convert them to {WEIGHTS} where you trust them (load with transformers, "
                "then model.save_pretrained), or download a revision that has it"
            )
        )
    if (folder / "adapter_config.json").is_file():
        raise WeightsError(
            f"{folder} holds an adapter, not a whole model; name the model's folder, and the "
            f"adapter with --lora {folder}"
        )
    raise WeightsError(f"there is no {WEIGHTS} in {folder}; download the whole checkpoint")


def _shards(folder: Path) -> tuple[Path, ...]:
    table = read_json(folder / INDEX).get("weight_map")
    found = [*table.values()] if isinstance(table, dict) else []
    if not found or not all(_is_shard(name) for name in found):
        raise WeightsError(
            f"{folder / INDEX} does not say which *.safetensors files of its folder hold the "
            "weights; download it again"
        )
    names = set(found)
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise WeightsError(
            f"{len(missing)} of the {len(names)} files of the weights are missing in {folder}: "
            f"{_some(missing)}; download them too"
        )
    return tuple(folder / name for name in sorted(names))


def _is_shard(name: Any) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and not {*"/\\\0"} & {*name}


def _check_weights(folder: Path, paths: tuple[Path, ...]) -> None:
    """Reads the headers; of several files, against the index and each other."""
    headers = [read_header(path) for path in paths]
    if len(headers) == 1 and paths[0].name == WEIGHTS:
        return
    holders: dict[str, Header] = {}
    for header in headers:
        for name in header.tensors:
            if name in holders:
                raise WeightsError(
                    f"{header.path} and {holders[name].path.name} both hold {name}; they are not "
                    "parts of one model: download both again"
                )
            holders[name] = header
    for name, file in read_json(folder / INDEX)["weight_map"].items():
        holder = holders.get(name)
        if holder is None or holder.path.name != file:
            found = f", but {holder.path.name} does" if holder else ""
            raise WeightsError(
                f"{folder / file} does not hold {name}, as {INDEX} says{found}; the file is "
                "another part or of another model: download it again"
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
    content = load_json(path)
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a JSON object; download it again")
    return content


def load_json(path: Path) -> Any:
    """Any JSON value, of bounded size; its numbers are finite. Raises WeightsError."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise WeightsError(f"{path} is too large to be what its name says; download it again")
        content = path.read_bytes()
        return json.loads(content, parse_float=_finite, parse_constant=_finite)
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON ({error}); download it again") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is no number")
    return number


def _unreadable(path: Path, error: OSError) -> WeightsError:
    reason = error.strerror or str(error)
    return WeightsError(f"{path} cannot be read: {reason}; check its permissions")


def _names(folder: Path, endings: tuple[str, ...]) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(endings))


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
