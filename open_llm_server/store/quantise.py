"""Makes staged weights smaller, and says what that cost.

Owns which weights may be quantised, which files come out and what the manifest is told. The work
itself is done in child processes: `quantise_gguf`, `quantise_int8`. Knows nothing of where the
weights came from.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..config.machine import processor_name, usable_cores
from ..engine import gguf, safetensors_header, torch_checkpoint
from ..errors import WeightsError
from . import child_process
from .manifest import FileRecord, Quantised
from .parallel import each, sha256_of
from .progress import Meter

SCHEMES: dict[str, tuple[str, ...]] = {"gguf": ("q8_0", "q4_k_m"), "folder": ("int8",), "none": ()}
"""What weights of each kind can be quantised to."""
LEAST_GAIN = 1.0
"""How many times as fast int8 must be here to be taken."""
_WHOLE = {"F32", "F16", "BF16"}
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_TYPE = re.compile(r"[-._](b?f16|f32|fp16|fp32)$", re.IGNORECASE)
_ENCODERS = ("bert",)
_NEW = ".quantised"
"""The folder beside the weights in which new ones are made."""
_LEAST_LIMIT_S, _BYTES_PER_S = 1800.0, 1e6
"""A child may take so long, and longer where it has more to do than so much in that time."""


def quantise(
    folder: Path,
    *,
    weights: Literal["gguf", "folder"],
    main: str | None,
    scheme: str,
    family: str,
    records: Sequence[FileRecord],
    meter: Meter,
) -> tuple[str | None, list[FileRecord], Quantised]:
    """Replaces the weights in `folder` by quantised ones; returns the file to load (as `main`),
    the records of all files that are there now, and what it cost.

    `records`: of the files that are there. Raises WeightsError, which leaves the weights as they
    were; ends the work where the meter's listener raises.
    """
    new = folder / _NEW
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        if weights == "gguf":
            return _gguf(folder, main or "", scheme, records, meter)
        return None, *_checkpoint(folder, scheme, family, records, meter)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _gguf(
    folder: Path, main: str, scheme: str, records: Sequence[FileRecord], meter: Meter
) -> tuple[str, list[FileRecord], Quantised]:
    header = gguf.read_header(folder / main)
    found = {tensor.type for tensor in header.all_tensors if len(tensor.shape) > 1} - _WHOLE
    if found:
        raise WeightsError(
            f"{main} is quantised already ({header.quantisation}), and quantising twice loses "
            "more than it saves; import it without --quantize, or name the F16, BF16 or F32 file "
            "of the model"
        )
    original = [part.path.relative_to(folder).as_posix() for part in (header, *header.shards)]
    stem = _TYPE.sub("", _PART.sub("", Path(main).stem))
    made = folder / _NEW / f"{stem}-{scheme}.gguf"
    size = sum(part.file_bytes for part in (header, *header.shards))
    told = _run("quantise_gguf", folder / main, made, scheme, size, meter)
    gguf.read_header(made)
    name = Path(main).with_name(made.name).as_posix()
    after = _replace(folder, original, {name: made}, records, meter)
    return name, after, _facts(scheme, records, original, after, told)


def _checkpoint(
    folder: Path, scheme: str, family: str, records: Sequence[FileRecord], meter: Meter
) -> tuple[list[FileRecord], Quantised]:
    config = torch_checkpoint.read_json(folder / "config.json")
    model_type = str(config.get("model_type"))
    if model_type in _ENCODERS:
        raise WeightsError(
            f"encoders (family {family}) are small, and in 8 bits a vector would depend on what "
            "else is asked at the same time; import it without --quantize"
        )
    checkpoint = torch_checkpoint.read_checkpoint(folder, model_types=[model_type])
    if checkpoint.int8:
        raise WeightsError(
            f"the weights in {folder} are quantised already; import them without --quantize"
        )
    size = torch_checkpoint.model_bytes(checkpoint)
    original = [path.name for path in checkpoint.weights]
    made = folder / _NEW / torch_checkpoint.WEIGHTS
    told = _run("quantise_int8", folder, made, scheme, size, meter)
    if told["gain"] < LEAST_GAIN:
        raise WeightsError(
            f"int8 is not faster on this machine: {told['gain']:.2f} of {told['dtype']}'s tokens a "
            "second; import it without --quantize"
        )
    safetensors_header.read_header(made)
    settings = made.with_name("config.json")
    if len(original) > 1:
        original.append(torch_checkpoint.INDEX)
    new = {made.name: made, settings.name: settings}
    after = _replace(folder, original, new, records, meter)
    return after, _facts(scheme, records, original, after, told)


def _run(
    work: str, source: Path, target: Path, scheme: str, size: int, meter: Meter
) -> Mapping[str, Any]:
    """What the child says of the result. `size`: bytes of the weights."""
    threads = usable_cores()
    return child_process.run(
        f"{__package__}.{work}:work",
        {"source": str(source), "target": str(target), "scheme": scheme, "threads": threads},
        meter,
        folder=target.parent,
        threads=threads,
        what=f"quantising to {scheme}",
        limit_s=_LEAST_LIMIT_S + size / _BYTES_PER_S,
        way_out="import without --quantize",
    )


def _replace(
    folder: Path,
    original: Sequence[str],
    new: Mapping[str, Path],
    records: Sequence[FileRecord],
    meter: Meter,
) -> list[FileRecord]:
    """Puts `new` files where they belong, and removes the `original` weights."""
    for name, made in new.items():
        made.replace(folder / name)
    for name in set(original) - set(new):
        (folder / name).unlink()
    meter.begin("checking", sum((folder / name).stat().st_size for name in new))
    hashes = each(lambda name, step: sha256_of(folder / name, step), [*new], meter)
    kept = [record for record in records if record.path not in {*original, *new}]
    return kept + [_record(folder, name, digest) for name, digest in zip(new, hashes, strict=True)]


def _record(folder: Path, name: str, digest: str) -> FileRecord:
    facts = (folder / name).stat()
    return FileRecord(path=name, bytes=facts.st_size, sha256=digest, mtime_ns=facts.st_mtime_ns)


def _facts(
    scheme: str,
    records: Sequence[FileRecord],
    original: Sequence[str],
    after: Sequence[FileRecord],
    told: Mapping[str, Any],
) -> Quantised:
    weights = tuple(record for record in records if record.path in original)
    left = {record.path for record in records} - set(original)
    return Quantised(
        scheme=scheme,
        original=weights,
        bytes_before=sum(record.bytes for record in weights),
        bytes_after=sum(record.bytes for record in after if record.path not in left),
        perplexity_before=told["before"],
        perplexity_after=told["after"],
        text=told["text"],
        speed=told.get("gain"),
        speed_of=told.get("dtype"),
        processor=processor_name() if "gain" in told else None,
    )
