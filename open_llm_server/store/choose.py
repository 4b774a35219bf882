"""Which files of a model to take: only those that the engine reads. Pure: names in, names out.

Works on names alone, before anything is fetched; what is in the files is the gate's business.
Code, other formats and second copies of the weights are left where they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from ..engine.torch_checkpoint import INDEX, TOKENIZERS, WEIGHTS
from ..errors import ConfigurationError, WeightsError

PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
)
"""Small files of a checkpoint that the engines read, beside the tokenizer's own."""
_POOLING = re.compile(r"\d{1,2}_Pooling/config\.json")
_PART = re.compile(r"(?P<head>.*)-(?P<place>\d{5})-of-(?P<count>\d{5})(?P<ending>\.\w+)")
_PROJECTOR = re.compile(r"(^|[-._])mmproj([-._]|$)")
_STATISTICS = re.compile(r"(^|[.])imatrix\.gguf$")
_FOREIGN = {".h5": "TensorFlow", ".msgpack": "Flax", ".onnx": "ONNX"}
_LOOSE_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MOST_PARTS = 1024
_SHOWN = 20
_FEW = 3


@dataclass(frozen=True)
class Chosen:
    """What to take."""

    files: tuple[str, ...]
    """In order of their names."""
    main: str | None
    """The file to load; `None`: the folder."""
    pickled: bool
    """Whether the weights are pickled, and must be converted before anything loads them."""


def choose(
    names: Sequence[str],
    weights: Literal["gguf", "folder"],
    *,
    file: str | None,
    where: str,
    convert: bool,
) -> Chosen:
    """The files to take of `names`, the listing of `where` (paths relative to it, with `/`).

    `file`: the GGUF that was asked for by name. `where`: the hub id or folder, for messages.
    `convert`: pickled weights are wanted where there are no others. Raises WeightsError where
    `names` lack something, ConfigurationError where it is not clear which model is meant.
    """
    listed = {name for name in names if _is_plain(name)}
    if weights == "gguf":
        return _choose_gguf(listed, file, where)
    if file:
        raise ConfigurationError(
            f"a checkpoint is the whole of {where}; leave '#{file}' out, or serve a GGUF file "
            "with family llama"
        )
    return _choose_checkpoint(listed, where, convert)


def _is_plain(name: str) -> bool:
    """Whether `name` means a file below the folder, and nothing else, to every system.

    Nor a hidden one: by such names the store keeps what is being made in a stage.
    """
    return (
        name.isprintable()
        and not {*'\\:*?"<>|'} & {*name}
        and all(part.strip(". ") and part[0] != "." for part in name.split("/"))
    )


# -- GGUF ---------------------------------------------------------------------------------------


def _choose_gguf(listed: set[str], file: str | None, where: str) -> Chosen:
    models = sorted(name for name in listed if name.endswith(".gguf") and _is_model(name))
    if file is None:
        file = _only(models, listed, where)
    elif not _is_model(file):
        raise WeightsError(
            f"{file} of {where} is no model of its own (a projector for images, or statistics "
            f"for quantising); name another after '#'{_offer(models)}"
        )
    elif file not in listed or not file.endswith(".gguf"):
        near = get_close_matches(file, models, n=_FEW, cutoff=0.3) or models[:_FEW]
        raise WeightsError(f"there is no GGUF file {file!r} in {where}{_offer(near)}")
    parts = _parts(file, listed, where)
    return Chosen(parts, parts[0], pickled=False)


def _is_model(name: str) -> bool:
    last = name.rpartition("/")[2].lower()
    return not _PROJECTOR.search(last.removesuffix(".gguf")) and not _STATISTICS.search(last)


def _only(models: list[str], listed: set[str], where: str) -> str:
    """The one model there is; of one that is split, its first part."""
    firsts = dict.fromkeys(
        _part_name(part, 1) if (part := _PART.fullmatch(name)) else name for name in models
    )
    if len(firsts) == 1:
        return next(iter(firsts))
    if firsts:
        some = [name for name in firsts if name in listed] or models
        more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
        raise ConfigurationError(
            f"{where} holds {len(firsts)} GGUF models, such as quantisations of different sizes; "
            f"name one, as in FAMILY@{where}#{some[0]}: {', '.join(some[:_SHOWN])}{more}"
        )
    other = (
        "; it is a checkpoint, which goes with a family on torch (see `open-llm-server models`)"
        if "config.json" in listed
        else "; name a source that has one (on hubs, look for GGUF in the name)"
    )
    raise WeightsError(f"there is no GGUF model in {where}{other}")


# -- checkpoints --------------------------------------------------------------------------------


def _choose_checkpoint(listed: set[str], where: str, convert: bool) -> Chosen:
    if "config.json" not in listed:
        raise WeightsError(_no_checkpoint(listed, where))
    weights, pickled = _weights(listed, where, convert)
    if "tokenizer.json" in listed:
        tokenizer = {"tokenizer.json"}
    else:
        tokenizer = {name for group in TOKENIZERS if listed.issuperset(group) for name in group}
    if not tokenizer:
        raise WeightsError(
            f"there is no tokenizer.json in {where}, nor an older tokenizer's files; name a "
            "source that is a whole checkpoint"
        )
    small = {name for name in listed if name in SMALL or _POOLING.fullmatch(name)}
    return Chosen(tuple(sorted({*weights, *tokenizer, *small})), None, pickled)


def _weights(listed: set[str], where: str, convert: bool) -> tuple[tuple[str, ...], bool]:
    """The files that hold the weights, and whether they are pickled."""
    if WEIGHTS in listed:
        return (WEIGHTS,), False
    if parts := _numbered(listed, "model", ".safetensors"):
        if INDEX not in listed:
            raise WeightsError(
                f"the weights in {where} are in {len(parts)} files, and {INDEX}, which says what "
                "is in which, is missing; name a whole checkpoint"
            )
        return (INDEX, *_parts(parts[0], listed, where)), False
    pickles = _pickles(listed, where)
    if not pickles:
        raise WeightsError(_no_weights(listed, where))
    if not convert:
        raise WeightsError(
            f"the weights in {where} are pickled ({pickles[-1]}) and in no other form, and "
            "unpickling runs whatever code a file holds; if you trust their publisher, have them "
            f"converted: open-llm-server import FAMILY@{where} --convert-pickles"
        )
    return pickles, True


def _pickles(listed: set[str], where: str) -> tuple[str, ...]:
    if PICKLE in listed:
        return (PICKLE,)
    parts = _numbered(listed, "pytorch_model", ".bin")
    if PICKLE_INDEX in listed and parts:
        return (PICKLE_INDEX, *_parts(parts[0], listed, where))
    return ()


def _no_checkpoint(listed: set[str], where: str) -> str:
    if any(name.endswith(".gguf") for name in listed):
        return f"{where} holds GGUF files, which family llama serves: llama@{where}"
    if "adapter_config.json" in listed:
        return (
            f"{where} holds an adapter, not a whole model; name the model it was trained on, and "
            "the adapter with --lora"
        )
    return f"there is no config.json in {where}; name a whole checkpoint (config.json, {WEIGHTS})"


def _no_weights(listed: set[str], where: str) -> str:
    if loose := sorted(name for name in listed if name.endswith(_LOOSE_PICKLES)):
        return (
            f"the weights in {where} are pickled ({loose[0]}) in a form that is not converted "
            f"here; name a source that has {WEIGHTS} or {PICKLE}"
        )
    for ending, library in _FOREIGN.items():
        if any(name.endswith(ending) for name in listed):
            return f"the weights in {where} are for {library}; name a source that has {WEIGHTS}"
    return f"there is no {WEIGHTS} in {where}; name a whole checkpoint"


# -- parts --------------------------------------------------------------------------------------


def _numbered(listed: set[str], head: str, ending: str) -> list[str]:
    found = ((name, _PART.fullmatch(name)) for name in listed)
    return sorted(
        name for name, part in found if part and part["head"] == head and (part["ending"] == ending)
    )


def _parts(name: str, listed: set[str], where: str) -> tuple[str, ...]:
    """`name`, or all parts of the model that it is a part of. Raises WeightsError."""
    part = _PART.fullmatch(name)
    if part is None:
        return (name,)
    count = int(part["count"])
    if not 1 <= count <= _MOST_PARTS:
        raise WeightsError(
            f"{name} of {where} is one of {count} parts, and models have up to {_MOST_PARTS}; "
            "name another"
        )
    parts = tuple(_part_name(part, place) for place in range(1, count + 1))
    if missing := [name for name in parts if name not in listed]:
        more = f" and {len(missing) - _FEW} more" if len(missing) > _FEW else ""
        raise WeightsError(
            f"{len(missing)} of the {count} parts of the weights are missing in {where}: "
            f"{', '.join(missing[:_FEW])}{more}; name a source that has them all"
        )
    return parts


def _part_name(part: re.Match[str], place: int) -> str:
    return f"{part['head']}-{place:05d}-of-{part['count']}{part['ending']}"


def _offer(names: Sequence[str]) -> str:
    return f"; there is: {', '.join(names[:_SHOWN])}" if names else "; it holds no GGUF model"
