"""The files of a GGUF model in parts: that all are there, each is the part that its name says, and
together they are one model. Headers in, errors out; `gguf` reads the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import WeightsError
from .gguf_format import MAX_SHARDS

if TYPE_CHECKING:
    from .gguf import Header

_NAME = re.compile(r"(?P<head>.*)-(?P<place>\d{5})-of-(?P<count>\d{5})\.gguf")
_COUNT, _PLACE, _TENSORS = "split.count", "split.no", "split.tensors.count"


def read_shards(first: Header, read: Callable[[Path], Header]) -> tuple[Header, ...]:
    """The headers of the parts that follow `first`; empty for a model in one file.

    `read` reads one header. Raises WeightsError, which names the file.
    """
    match, count = _NAME.fullmatch(first.path.name), first.number(_COUNT)
    named = int(match["count"]) if match else 0
    if named <= 1 and (count is None or count <= 1):
        return ()
    if count is None:
        raise WeightsError(
            f"{first.path} is by its name one of {named} parts of a model, and says nothing of "
            f"parts itself ({_COUNT}): it is of another model, or cut by another tool. Download "
            "the parts again, or rename it if it is the whole model"
        )
    if not match or named != count or not 1 < count <= MAX_SHARDS or int(match["place"]) != 1:
        raise WeightsError(
            f"{first.path} is one of {count} parts of a model; give the first part, named "
            f"as in model-00001-of-{min(max(count, 0), 99_999):05d}.gguf, with the others beside it"
        )
    _check_place(first, 0, count)
    names = [f"{match['head']}-{place:05d}-of-{count:05d}.gguf" for place in range(2, count + 1)]
    shards = tuple(read(first.path.with_name(name)) for name in names)
    for place, shard in enumerate(shards, 1):
        _check_place(shard, place, count)
    _check_tensors((first, *shards))
    return shards


def _check_place(part: Header, place: int, count: int) -> None:
    found, of = part.number(_PLACE), part.number(_COUNT)
    if found is None or of is None:
        raise WeightsError(
            f"{part.path} says nothing of parts ({_PLACE}, {_COUNT}), and is part {place + 1} of "
            f"{count} by its name: it is of another model. Download it again"
        )
    if of != count:
        raise WeightsError(
            f"{part.path} is one of {of} parts by its header, and of {count} by its name: it is "
            "of another model. Download it again"
        )
    if found != place:
        raise WeightsError(
            f"{part.path} is part {found + 1} of {count} by its header, and part {place + 1} by "
            "its name: the parts are swapped. Give them their names back, or download them again"
        )


def _check_tensors(parts: tuple[Header, ...]) -> None:
    first, holders = parts[0], dict[str, Path]()
    for part in parts:
        for tensor in part.tensors:
            if tensor.name in holders:
                raise WeightsError(
                    f"{part.path} and {holders[tensor.name].name} both hold the tensor "
                    f"{tensor.name}: they are not parts of one model. Download both again"
                )
            holders[tensor.name] = part.path
    promised = first.number(_TENSORS)
    if promised != len(holders):
        said = "does not say how many" if promised is None else f"says {promised}"
        raise WeightsError(
            f"the {len(parts)} parts of {first.path} hold {len(holders)} tensors, and it {said} "
            f"({_TENSORS}): a part is of another model. Download them again"
        )
