"""Brings one model's weights into the store, whole or not at all.

Owns the order of the steps: ask, choose, fetch or copy, convert, check, quantise, publish. Each
step is a file of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from .. import __version__
from ..config.merge import resolve_model
from ..config.models import ModelSpec, Source
from ..config.resolved import ModelPlan
from ..config.stored import look_up
from ..config.weights import WeightsKind
from ..errors import ConfigurationError, WeightsError
from ..extras import LLAMA_CPP, TORCH, require
from ..registry import load_family
from . import catalog, choose, convert, gate, hub, local, present, quantise, quantised_size
from .import_words import importing, naming, naming_files, naming_others
from .manifest import Entry, FileRecord, Manifest, Quantised
from .progress import Listener, Meter
from .stage import Stage, stage
from .wish import Wish

if TYPE_CHECKING:
    from ..runnable import LLMRunnable

_GGUF = ".gguf"


@dataclass(frozen=True)
class _Brought:
    """What lies in the stage, before it is checked."""

    chosen: choose.Chosen
    records: list[FileRecord]
    commit: str | None
    licence: str | None


def import_model(
    name: str,
    *,
    revision: str | None = None,
    quantize: str | None = None,
    convert_pickles: bool = False,
    listener: Listener | None = None,
) -> Entry:
    """Imports what `name` names (`NAME`, `FAMILY@SOURCE` or `ALIAS=FAMILY@SOURCE`), and returns it.

    What is there already is not fetched again. `quantize`: `q8_0` or `q4_k_m` for GGUF files,
    `int8` for checkpoints. `convert_pickles`: weights that are pickled may be converted, in a
    process without network. `listener` hears how far it is, from any thread; what it raises ends
    the import. Raises ConfigurationError or WeightsError (HubUnavailable: try again later), which
    leave the store as it was; the next try goes on where this one ended.
    """
    spec = ModelSpec.parse(name)
    with importing():
        plan = resolve_model(name)
    wish = _wish(
        plan,
        name=spec.name if spec.name != spec.family else None,
        revision=revision,
        scheme=quantize,
        convert=convert_pickles,
    )
    return _bring_in(wish, Meter(listener))


def ensure(plan: ModelPlan, listener: Listener | None = None) -> ModelPlan:
    """`plan` with its weights on this machine; imports what is missing. Raises as `import_model`.

    Touches no network where nothing is missing.
    """
    if not plan.missing:
        return plan
    family = load_family(plan)
    path = look_up(plan.source, family.weights_of(plan.config), plan.name)
    if path is None:
        path = _bring_in(_wish(plan), Meter(listener)).path
    return plan.model_copy(update={"stored": str(path)})


def refuse_offline(plan: ModelPlan) -> None:
    """Raises WeightsError where HF_HUB_OFFLINE forbids to fetch what `plan` lacks. Touches no
    network."""
    if plan.missing and present.is_offline():
        wish = _wish(plan)
        with naming(wish), naming_others(wish):
            if present.unasked(wish) is None:
                hub.describe(wish.source.location, wish.source.revision)


def _wish(
    plan: ModelPlan,
    *,
    name: str | None = None,
    revision: str | None = None,
    scheme: str | None = None,
    convert: bool = False,
) -> Wish:
    family, source = load_family(plan), plan.source
    weights = family.weights_of(plan.config)
    if source is None or weights == "none":
        raise ConfigurationError(f"{plan.name} takes no weights: there is nothing to import")
    if source.kind == "builtin":
        raise ConfigurationError(f"{plan.name} is built in: there is nothing to import")
    if source.kind == "store":
        raise ConfigurationError(f"{source} is imported already; name where it came from")
    if revision is not None:
        if source.kind != "hub":
            raise ConfigurationError(f"{source} is a path, and only hub ids have revisions")
        if source.revision not in (None, revision):
            raise ConfigurationError(
                f"{source} names another revision than {revision}; leave one of them out"
            )
        source = Source.parse(f"hub:{source.location}:{revision}").model_copy(
            update={"file": source.file}
        )
    if scheme is not None:
        _refuse_scheme(scheme, family, weights)
    return Wish(name, source, family, weights, scheme=scheme, convert=convert)


def _refuse_scheme(scheme: str, family: type[LLMRunnable], weights: WeightsKind) -> None:
    """Before anything is fetched."""
    known = quantise.SCHEMES[weights]
    if scheme not in known:
        raise ConfigurationError(
            f"--quantize {scheme}: weights of family {family.name} are quantised to "
            f"{' or '.join(known)}"
        )
    dtype = family.Config.model_fields.get("dtype")
    if weights == "folder" and not (dtype and scheme in get_args(dtype.annotation)):
        raise ConfigurationError(
            f"--quantize {scheme}: family {family.name} does not compute with such weights; leave "
            "it out"
        )


def _bring_in(wish: Wish, meter: Meter) -> Entry:
    meter.begin("resolving", note=str(wish.source))
    with naming(wish):
        return _from_hub(wish, meter) if wish.is_remote else _from_here(wish, meter)


def _from_here(wish: Wish, meter: Meter) -> Entry:
    with stage(wish.key, meter=meter) as staged:
        brought = _copy(wish, staged, meter)
        return staged.publish(_finish(wish, brought, staged.folder, meter))


def _from_hub(wish: Wish, meter: Meter) -> Entry:
    remote, entry = None, present.unasked(wish)
    if entry:
        commit = entry.manifest.commit or ""
    else:
        with naming_others(wish):
            remote = hub.describe(wish.source.location, wish.source.revision, meter=meter)
        commit = remote.commit
        entry = present.of_commit(wish, commit)
    if entry and present.is_called(wish, entry):
        return present.note(wish, entry)
    catalog.refuse_newer(wish.tag(commit))
    with stage(wish.key, meter=meter) as staged:
        # Whoever held the stage before may have brought it meanwhile.
        entry = present.of_commit(wish, commit)
        if entry and present.is_called(wish, entry):
            return present.note(wish, entry)
        if entry:
            return staged.publish(_renamed(wish, entry, staged, meter))
        if remote is None:
            raise WeightsError(f"{wish.source} was removed meanwhile; import it again")
        brought = _fetch(wish, remote, staged, meter)
        return staged.publish(_finish(wish, brought, staged.folder, meter))


def _renamed(wish: Wish, entry: Entry, staged: Stage, meter: Meter) -> Manifest:
    """The same as `entry` under the name that is wished for."""
    known = entry.manifest
    records = present.again(entry, staged, meter)
    meter.begin("checking", note=wish.source.label)
    with naming_files(wish, staged.folder):
        gate.check_model(staged.folder, weights=wish.weights, main=known.main, family=wish.family)
    meter.begin("finishing")
    return known.model_copy(
        update={
            "tag": str(wish.tag(known.commit or _digest(records))),
            "family": wish.family.name,
            "file": wish.source.file,
            "revision": wish.source.revision,
            "asked_since": {},
            "imported_at": datetime.now(timezone.utc),
            "files": tuple(records),
            "server": __version__,
        }
    )


def _fetch(wish: Wish, remote: hub.Remote, staged: Stage, meter: Meter) -> _Brought:
    known = {file.path: file for file in remote.files}
    chosen = choose.choose(
        [*known], wish.weights, file=wish.source.file, where=remote.id, convert=wish.convert
    )
    _require_tools(wish, chosen)
    files = [known[path] for path in chosen.files]
    total = sum(file.bytes for file in files)
    records = None
    if holder := present.holder(remote, files):
        fresh = local.bytes_to_copy(holder.folder, chosen.files, staged.folder)
        staged.reserve(_room(wish, chosen, total, fresh=fresh, root=holder.folder))
        records = present.taken(holder, files, staged, meter)
    if records is None:
        staged.reserve(_room(wish, chosen, total, fresh=total, root=None))
        records = hub.fetch(remote, files, staged.folder, meter)
    return _Brought(chosen, records, remote.commit, remote.licence)


def _copy(wish: Wish, staged: Stage, meter: Meter) -> _Brought:
    path = Path(wish.source.location)
    root = path.parent if path.is_file() else path
    names = local.names(root)
    file = path.name if path.is_file() else wish.source.file
    if odd := path.is_file() and path.suffix != _GGUF:  # a person says that it is one
        chosen = choose.Chosen((path.name,), path.name, pickled=False)
    else:
        chosen = choose.choose(
            names, wish.weights, file=file, where=str(path), convert=wish.convert
        )
    _require_tools(wish, chosen)
    if not path.is_file():
        local.refuse_ways_out(root, chosen.files)
    total = local.bytes_of(root, chosen.files)
    fresh = local.bytes_to_copy(root, chosen.files, staged.folder)
    staged.reserve(_room(wish, chosen, total, fresh=fresh, root=root))
    records = local.bring(root, chosen.files, staged.folder, meter)
    licence = gate.licence(root, chosen.main)
    if odd:
        name = path.name + _GGUF
        (staged.folder / path.name).rename(staged.folder / name)
        chosen = choose.Chosen((name,), name, pickled=False)
        records = [record.model_copy(update={"path": name}) for record in records]
    return _Brought(chosen, records, None, licence)


def _require_tools(wish: Wish, chosen: choose.Chosen) -> None:
    """Raises StartError, before anything is fetched, where a package is missing that it takes to
    convert or quantise."""
    if chosen.pickled:
        require(TORCH, "--convert-pickles", "torch")
    if wish.scheme and wish.weights == "gguf":
        require(LLAMA_CPP, f"--quantize {wish.scheme}")
    elif wish.scheme:
        quantiser = ("torch", "transformers", "safetensors", "accelerate")
        require(TORCH, f"--quantize {wish.scheme}", *quantiser)


def _room(wish: Wish, chosen: choose.Chosen, total: int, *, fresh: int, root: Path | None) -> int:
    """Bytes that the stage needs: what is converted or quantised stands beside what it was.

    `total` bytes are in the chosen files, of which `fresh` are not on this disk yet. What is
    converted is as large as before; what is quantised, as `quantised_size` foretells, by the
    tensors' types where the files are here already, in the folder `root`.
    """
    room = fresh + total * bool(chosen.pickled)
    if wish.scheme:
        known = None if chosen.pickled else root
        room += quantised_size.bytes_after(wish.scheme, known, chosen.files, total)
    return room


def _finish(wish: Wish, brought: _Brought, folder: Path, meter: Meter) -> Manifest:
    """Makes of what was brought what will be loaded, and checks it."""
    main, records = brought.chosen.main, brought.records
    quantised: Quantised | None = None
    with naming_files(wish, folder):
        if brought.chosen.pickled:
            convert.convert(folder, meter)
            records = local.records(folder, meter)
        meter.begin("checking", note=wish.source.label)
        gate.check_model(folder, weights=wish.weights, main=main, family=wish.family)
        if wish.scheme:
            main, records, quantised = quantise.quantise(
                folder,
                weights=wish.weights,
                main=main,
                scheme=wish.scheme,
                family=wish.family.name,
                records=records,
                meter=meter,
            )
    meter.begin("finishing")
    return Manifest(
        tag=str(wish.tag(brought.commit or _digest(records))),
        family=wish.family.name,
        weights=wish.weights,
        kind="hub" if wish.is_remote else "path",
        location=wish.source.location,
        file=wish.source.file,
        main=main,
        revision=wish.source.revision,
        commit=brought.commit,
        licence=brought.licence,
        imported_at=datetime.now(timezone.utc),
        converted=brought.chosen.pickled,
        quantised=quantised,
        files=tuple(sorted(records, key=lambda record: record.path)),
        server=__version__,
    )


def _digest(records: Sequence[FileRecord]) -> str:
    """A version for what no hub gave one: the hash of its files' names and hashes."""
    lines = sorted(f"{record.sha256} {record.path}" for record in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
