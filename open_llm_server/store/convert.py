"""Pickled weights of a staged model become safetensors, and the pickles go.

Owns which files are weights, their new names, and the judgement of what came out. The conversion
itself runs in a process without network, `convert_pickles`; nothing is unpickled here.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..engine.safetensors_header import Header, read_header
from ..engine.torch_checkpoint import INDEX, PICKLED, WEIGHTS, read_json
from ..errors import WeightsError
from . import child_process
from .choose import PICKLE, PICKLE_INDEX
from .progress import Meter

_SHARD = re.compile(r"pytorch_model-(\d{5}-of-\d{5})\.bin")
_NEW = ".converted"
"""The folder beside the pickles in which the new files are made."""
_TIED = {"t5": True, "bloom": True}
"""Whether the output matrix is the embeddings' where config.json says nothing, by model type."""
_LEAST_LIMIT_S, _BYTES_PER_S = 1200.0, 2e6


def convert(folder: Path, meter: Meter) -> None:
    """Converts the pickled weights in `folder`: pytorch_model.bin, the shards that its index names,
    or the one pickled file there is.

    Raises WeightsError for files that hold more than tensors, that torch does not read, or where
    no process without network can be had; the folder is then as it was.
    """
    names = _names(folder)
    new = folder / _NEW
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        _run(folder, names, meter)
        headers = [read_header(new / name) for name in names.values()]
        if len(headers) > 1:
            _write_index(new / INDEX, headers)
        for path in new.iterdir():
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    for name in (*names, PICKLE_INDEX):
        (folder / name).unlink(missing_ok=True)


def _run(folder: Path, names: Mapping[str, str], meter: Meter) -> None:
    config = read_json(folder / "config.json", needed=False)
    usually = _TIED.get(str(config.get("model_type")), False)
    size = sum((folder / name).stat().st_size for name in names)
    child_process.run(
        f"{__package__}.convert_pickles:work",
        {
            "files": [(name, f"{_NEW}/{new}") for name, new in names.items()],
            "tied_head": bool(config.get("tie_word_embeddings", usually)),
        },
        meter,
        folder=folder,
        threads=1,
        what="converting pickled weights",
        limit_s=_LEAST_LIMIT_S + size / _BYTES_PER_S,
        way_out="use a revision that has safetensors",
    )


def _names(folder: Path) -> dict[str, str]:
    """The pickled files, and what each is called when it is none any more."""
    if (folder / PICKLE_INDEX).is_file():
        return {name: _new_name(name) for name in _shards(folder)}
    if (folder / PICKLE).is_file():
        return {PICKLE: WEIGHTS}
    found = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if len(found) != 1:
        raise WeightsError(
            f"there is no {PICKLE} in {folder} to convert, and "
            + (f"which of {', '.join(found)} is the model is not said" if found else "no other")
            + "; use a revision that has safetensors"
        )
    return {found[0]: WEIGHTS}


def _shards(folder: Path) -> list[str]:
    table = read_json(folder / PICKLE_INDEX).get("weight_map")
    named = [*table.values()] if isinstance(table, dict) else []
    if not named or not all(isinstance(name, str) and _SHARD.fullmatch(name) for name in named):
        raise WeightsError(
            f"{folder / PICKLE_INDEX} does not say which pytorch_model-….bin files hold the "
            "weights; download it again"
        )
    found = set(named)
    if missing := sorted(name for name in found if not (folder / name).is_file()):
        raise WeightsError(
            f"{len(missing)} of the {len(found)} files of the weights are missing in {folder}, "
            f"such as {missing[0]}; download them too"
        )
    return sorted(found)


def _new_name(shard: str) -> str:
    found = _SHARD.fullmatch(shard)
    assert found
    return f"model-{found[1]}.safetensors"


def _write_index(path: Path, headers: Iterable[Header]) -> None:
    table: dict[str, str] = {}
    size = 0
    for header in headers:
        for name, tensor in header.tensors.items():
            if name in table:
                raise WeightsError(
                    f"two files of the weights hold {name}; they are not parts of one model: "
                    "download them again"
                )
            table[name] = header.path.name
            size += tensor.data_bytes
    content = {"metadata": {"total_size": size}, "weight_map": table}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
