"""The files that a server reads, and where its container shall have them: at the same paths.

Owns which files a configuration names and which of them cannot be mounted. Opens none of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from .config.fields import FieldFacts, facts_of
from .config.layers import Merged, absolute, named_file
from .config.merge import Draft, Drafts
from .config.schema import ServerConfig
from .container import Mount
from .errors import ConfigurationError, WeightsError
from .registry import Registry

_SHARD = re.compile(r"(?P<head>.*)-\d{5}-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_MOST_SHARDS = 1000
_KERNEL = ("/proc", "/sys", "/dev")
_IMAGE = (
    *_KERNEL,
    "/opt/open-llm-server",
    "/usr",
    "/etc",
    "/bin",
    "/lib",
    "/lib64",
    "/sbin",
    "/run",
)
"""What the image needs as it is."""
_STORES = ("/data/bentoml", "/data/huggingface")
_OWN = (*_IMAGE, *_STORES, "/tmp")
"""What no folder may be mounted over."""


def mounts(drafts: Drafts) -> tuple[Mount, ...]:
    """Everything that the configuration names on this machine, to be read and never written.

    Raises ConfigurationError for a path that would hide a part of the image.
    """
    found = [*_configuration(drafts), *_named(drafts.server, facts_of(ServerConfig))]
    for draft in drafts.models:
        found += _named(draft.merged, facts_of(Registry.get(draft.family).Config))
        found += _weights(draft)
    return tuple(dict.fromkeys(found))


def _configuration(drafts: Drafts) -> list[Mount]:
    path = drafts.document.path
    return [_mount(path, str(path))] if path else []


def _named(merged: Merged, facts: dict[str, FieldFacts]) -> Iterator[Mount]:
    """The files that the winning values of settings name."""
    for name, given in merged.given.items():
        texts = given.value if isinstance(given.value, (list, tuple)) else [given.value]
        for text in filter(lambda text: isinstance(text, str), texts):
            path = _path(facts[name], text, given.base)
            if path is None:
                continue
            # Flags and variables are made absolute; what a YAML file says stands there as it is.
            origin = merged.origins[name].removesuffix(":")
            in_file = origin != merged.origins[name]
            if in_file and text.startswith("~"):
                raise ConfigurationError(
                    f"{origin} {name}: '~' is another folder inside the container; write "
                    f"{str(path)!r} into the file"
                )
            target = os.path.normpath(given.base / text) if in_file else str(path)
            yield from _tree(path, target)


def _path(facts: FieldFacts, text: str, base: Path) -> Path | None:
    if facts.is_path:
        return absolute(text, base)
    return named_file(text, base) if facts.is_text_or_path else None


def _weights(draft: Draft) -> Iterator[Mount]:
    source = draft.source
    if source is None or source.kind != "path":
        return
    path = Path(source.location, source.file) if source.file else Path(source.location)
    shards = _SHARD.fullmatch(path.name)
    if shards is None:
        yield from _tree(path.resolve(), str(path))
        return
    for place in range(1, min(int(shards["count"]), _MOST_SHARDS) + 1):
        part = path.with_name(f"{shards['head']}-{place:05d}-of-{shards['count']}.gguf")
        if not part.is_file():
            raise WeightsError(
                f"{draft.spec.name}: {part} is missing, a part of {path.name}; download it again"
            )
        yield _mount(part.resolve(), str(part))


def _tree(path: Path, target: str) -> Iterator[Mount]:
    """A file, or a folder with what its links lead to outside of it, as in a hub's cache."""
    yield _mount(path, target)
    if not path.is_dir():
        return
    for link in _links(path):
        real = link.resolve()
        if not real.is_file() or real.is_relative_to(path):
            continue
        place = Path(target, link.relative_to(path)).parent
        yield _mount(real, os.path.normpath(place / link.readlink()))


def _links(folder: Path) -> Iterable[Path]:
    for place, folders, files in os.walk(folder):
        yield from (path for name in (*folders, *files) if (path := Path(place, name)).is_symlink())


def _mount(source: Path, target: str) -> Mount:
    """Raises ConfigurationError for a target that would hide a part of the image."""
    place = PurePosixPath(target)
    taken = [tree for tree in _IMAGE if place.is_relative_to(tree)]
    if source.is_dir():
        taken += [tree for tree in _OWN if PurePosixPath(tree).is_relative_to(place)]
        taken += [tree for tree in _STORES if place.is_relative_to(tree)]
    else:
        taken = [tree for tree in taken if tree in _KERNEL]
    if taken:
        raise ConfigurationError(
            f"{target} cannot be mounted: the container has a {taken[0]} of its own; copy what "
            "the server shall read to another folder, such as one in your home"
        )
    return Mount(str(source), target)
