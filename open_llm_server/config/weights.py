"""Finds the weights that a model's SOURCE names on this machine, before anything is started.

Looks at names and folders only; what is inside a file is the engine's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from ..errors import ConfigurationError, WeightsError
from .cards import Card
from .layers import absolute
from .models import ModelSpec, Source, local_path

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_SHOWN = 5

WeightsKind = Literal["gguf", "folder", "none"]
"""One GGUF file, a checkpoint's folder, or nothing at all."""


class TakesWeights(Protocol):
    """What a family says of its weights (`runnable.LLMRunnable`), under the model's settings."""

    def weights_of(self, config: Mapping[str, Any]) -> WeightsKind: ...
    def source_of(self, config: Mapping[str, Any], card: Card | None) -> str | None: ...


def find_weights(
    spec: ModelSpec,
    family: TakesWeights,
    card: Card | None,
    base: Path,
    config: Mapping[str, Any],
) -> Source | None:
    """The source, a path made absolute; `None` for a family without weights.

    Ids of a hub, and what is in the store, are somebody else's to look up. Raises WeightsError
    where a path leads to no weights, ConfigurationError where it is not clear what is meant.
    """
    kind = family.weights_of(config)
    if kind == "none":
        if spec.source:
            raise ConfigurationError(
                f"{spec}: family {spec.family} takes no weights; leave '@…' out"
            )
        return None
    own = family.source_of(config, card)
    source = spec.source or (Source.parse(own) if own else None)
    if source is None:
        raise WeightsError(_where_to_get(spec, card, kind))
    if source.kind == "store":
        return source
    if source.kind == "hub":
        _refuse_likely_path(spec, source, base, kind)
        return source
    if source.kind == "builtin":
        if not local_path(source).exists():
            raise WeightsError(f"{spec.name}: {local_path(source)} is not there; install again")
        return source
    return _local(spec, source, base, kind)


def _local(spec: ModelSpec, source: Source, base: Path, kind: WeightsKind) -> Source:
    path = absolute(source.location, base)
    if not path.exists():
        raise WeightsError(
            f"{spec.name}: there is no file or folder {source.location!r} in {base}"
            f"{_about_colon(source.location, base)}"
        )
    _refuse_device(spec, path)
    if kind == "folder":
        return _checkpoint(spec, source, path)
    if path.is_file():
        if source.file:
            raise ConfigurationError(f"{spec}: {path} is a file; '#{source.file}' needs a folder")
        return source.model_copy(update={"location": str(path)})
    if source.file:
        _refuse_device(spec, path / source.file)
        if not (path / source.file).is_file():
            raise WeightsError(f"{spec.name}: there is no file {source.file!r} in {path}")
    else:
        source = source.model_copy(update={"file": _only_gguf(spec, path)})
    return source.model_copy(update={"location": str(path)})


def _refuse_device(spec: ModelSpec, path: Path) -> None:
    """A pipe would be waited for without end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise WeightsError(
            f"{spec.name}: {path} is not a regular file (but a pipe, a socket or a device); name "
            "the file, or the folder, that holds the weights themselves"
        )


def _checkpoint(spec: ModelSpec, source: Source, path: Path) -> Source:
    if path.is_file():
        other = "; GGUF files go with family llama" if path.suffix == ".gguf" else ""
        raise WeightsError(
            f"{spec.name}: {path} is a file, and this model is read from a checkpoint's folder "
            f"(config.json, *.safetensors, tokenizer.json): {spec.family}@/path/to/folder{other}"
        )
    if source.file:
        raise ConfigurationError(
            f"{spec}: a checkpoint is its whole folder; leave '#{source.file}' out"
        )
    return source.model_copy(update={"location": str(path)})


def _only_gguf(spec: ModelSpec, folder: Path) -> str:
    """The folder's one GGUF file; of one that is split, the first part."""
    names = sorted(path.name for path in folder.glob("*.gguf"))
    whole = [name for name in names if not (part := _PART.search(name)) or int(part.group(1)) == 1]
    if len(whole) == 1:
        return whole[0]
    if names:
        shown = ", ".join(whole[:_SHOWN] or names[:_SHOWN])
        raise ConfigurationError(
            f"{spec.name}: {folder} holds {len(whole)} models ({shown}"
            f"{', …' if len(whole) > _SHOWN else ''}); name one: {spec.family}@{folder}#FILE.gguf"
        )
    other = (
        "; it is a checkpoint, which goes with a family on torch (see `open-llm-server models`)"
        if (folder / "config.json").is_file()
        else ""
    )
    raise WeightsError(f"{spec.name}: there is no *.gguf file in {folder}{other}")


def _where_to_get(spec: ModelSpec, card: Card | None, kind: WeightsKind) -> str:
    what = "file of its weights" if kind == "gguf" else "folder of its checkpoint"
    path = "PATH.gguf" if kind == "gguf" else "/path/to/folder"
    how = f"name the {what}: open-llm-server start {spec.family}@{path}"
    advice = f" {card.download}" if card and card.download else ""
    return f"{spec.name}: which weights? {how}.{advice}"


def _about_colon(location: str, base: Path) -> str:
    head, colon, tail = location.rpartition(":")
    if not colon or not absolute(head, base).exists():
        return ""
    return f"; ':{tail}' was taken for part of the path, only hub ids have revisions: leave it out"


def _refuse_likely_path(spec: ModelSpec, source: Source, base: Path, kind: WeightsKind) -> None:
    """A hub is not asked for what a person more likely means as a path, or cannot have there."""
    if absolute(source.location, base).exists():
        raise WeightsError(
            f"{spec.name}: {source} is read as a hub id; for the local path write "
            f"{spec.family}@./{source.location}, for the hub {spec.family}@hub:{source}"
        )
    if source.revision and source.location.endswith(".gguf"):
        raise WeightsError(
            f"{spec.name}: {source} is read as a hub id, and ':{source.revision}' as its revision; "
            f"a file on this machine has none: write {spec.family}@./{source.location}"
        )
    if kind == "folder" and source.file:
        raise ConfigurationError(
            f"{spec}: a checkpoint is its whole folder; leave '#{source.file}' out"
        )
