"""Finds the weights that a model's SOURCE names on this machine, before anything is started.

Looks at names and folders only; what is inside a file is the engine's business.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import ConfigurationError, WeightsError
from .cards import Card
from .layers import absolute
from .models import ModelSpec, Source, local_path

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_SHOWN = 5


def find_weights(spec: ModelSpec, family: type, card: Card | None, base: Path) -> Source | None:
    """The source with an absolute path that exists; `None` for a family without weights.

    Raises WeightsError where the weights are not on this machine, ConfigurationError where it is
    not clear which file is meant.
    """
    kind = getattr(family, "weights", "none" if getattr(family, "engine", "") == "fake" else "gguf")
    if kind == "none":
        if spec.source:
            raise ConfigurationError(
                f"{spec}: family {spec.family} takes no weights; leave '@…' out"
            )
        return None
    source = spec.source or (Source.parse(card.source) if card and card.source else None)
    if source is None:
        raise WeightsError(_where_to_get(spec, card))
    if source.kind == "hub":
        raise WeightsError(_not_here(spec, source, base))
    if source.kind == "builtin":
        if not local_path(source).exists():
            raise WeightsError(f"{spec.name}: {local_path(source)} is not there; install again")
        return source
    return _local(spec, source, base, kind)


def _local(spec: ModelSpec, source: Source, base: Path, kind: str) -> Source:
    path = absolute(source.location, base)
    if not path.exists():
        raise WeightsError(
            f"{spec.name}: there is no file or folder {source.location!r} in {base}"
            f"{_about_colon(source.location, base)}"
        )
    if path.is_file():
        if source.file:
            raise ConfigurationError(f"{spec}: {path} is a file; '#{source.file}' needs a folder")
        return source.model_copy(update={"location": str(path)})
    if source.file:
        if not (path / source.file).is_file():
            raise WeightsError(f"{spec.name}: there is no file {source.file!r} in {path}")
    elif kind == "gguf":
        source = source.model_copy(update={"file": _only_gguf(spec, path)})
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
    raise WeightsError(f"{spec.name}: there is no *.gguf file in {folder}")


def _where_to_get(spec: ModelSpec, card: Card | None) -> str:
    how = f"name the file of its weights: start {spec.family}@PATH.gguf"
    advice = f" {card.download}" if card and card.download else ""
    return f"{spec.name}: which weights? {how}.{advice}"


def _about_colon(location: str, base: Path) -> str:
    head, colon, tail = location.rpartition(":")
    if not colon or not absolute(head, base).exists():
        return ""
    return f"; ':{tail}' was taken for part of the path, only hub ids have revisions: leave it out"


def _not_here(spec: ModelSpec, source: Source, base: Path) -> str:
    folder = absolute(source.location, base)
    if folder.exists():
        return (
            f"{spec.name}: {source} is read as a hub id; for the local path write "
            f"{spec.family}@./{source.location}"
        )
    if source.revision and source.location.endswith(".gguf"):
        return (
            f"{spec.name}: {source} is read as a hub id, and ':{source.revision}' as its revision; "
            f"a file on this machine has none: write {spec.family}@./{source.location}"
        )
    revision = f" at revision {source.revision}" if source.revision else ""
    what = f"{source.file} of {source.location}" if source.file else source.location
    file = f"./{source.file}" if source.file else "PATH"
    return (
        f"{spec.name}: its weights are not on this machine, and this release does not fetch them; "
        f"download {what}{revision} from the Hugging Face hub, then start {spec.family}@{file}"
    )
