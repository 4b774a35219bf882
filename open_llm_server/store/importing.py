"""Brings one model's weights into the store, whole or not at all.

Owns the order of the steps: ask, choose, fetch or copy, convert, check, quantise, publish. Each
step is a file of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from .. import __version__
from ..config.merge import resolve_model
from ..config.models import ModelSpec, Source
from ..config.resolved import ModelPlan
from ..config.stored import look_up
from ..config.weights import WeightsKind
from ..errors import ConfigurationError, StartError
from ..registry import load_family
from . import catalog, choose, convert, gate, hub, local, quantise
from .manifest import Entry, FileRecord, Manifest, Quantised
from .places import Tag, slug
from .progress import Listener, Meter
from .stage import Stage, stage

if TYPE_CHECKING:
    from ..runnable import LLMRunnable

_COMMIT_SHOWN = 12
_FILE_SHOWN = 8


@dataclass(frozen=True)
class Wish:
    """What shall be in the store."""

    name: str | None
    """What the person calls it; `None`: as its source is called."""
    source: Source
    """A hub id, or an absolute path."""
    family: type[LLMRunnable]
    weights: Literal["gguf", "folder"]
    scheme: str | None = None
    """How to quantise it."""
    convert: bool = False
    """Whether pickled weights may be converted."""

    @property
    def key(self) -> str:
        """The same for every try of the same import."""
        about = [self.source.kind, self.source.location, self.source.file, self.scheme]
        digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:_COMMIT_SHOWN]
        return f"{slug(self._called)[:40].rstrip('-._')}-{digest}"

    @property
    def _called(self) -> str:
        if self.name:
            return self.name
        if self.source.kind == "hub":
            return self.source.location
        return Path(self.source.file or self.source.location).stem

    def tag(self, version: str) -> Tag:
        parts = [version[:_COMMIT_SHOWN]]
        if self.source.kind == "hub" and self.source.file:
            parts.append(hashlib.sha256(self.source.file.encode()).hexdigest()[:_FILE_SHOWN])
        if self.scheme:
            parts.append(self.scheme)
        return Tag(slug(self._called), "-".join(parts))


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
    path = look_up(plan.source, family.weights_of(plan.config))
    if path is None:
        path = _bring_in(_wish(plan), Meter(listener)).path
    return plan.model_copy(update={"stored": str(path)})


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


@contextmanager
def _naming(wish: Wish) -> Iterator[None]:
    """Commands in errors of the store say FAMILY@LOCATION, because no part of it knows families."""
    place = re.compile(rf"FAMILY@{re.escape(wish.source.location)}(?![\w#:/])")
    try:
        yield
    except StartError as error:
        whole = place.sub(lambda _: f"{wish.family.name}@{wish.source}", error.message)
        error.message = whole.replace("FAMILY@", f"{wish.family.name}@")
        error.args = (error.message,)
        raise


def _bring_in(wish: Wish, meter: Meter) -> Entry:
    with _naming(wish):
        return _import(wish, meter)


def _import(wish: Wish, meter: Meter) -> Entry:
    meter.begin("resolving", note=str(wish.source))
    remote = hub.describe(wish.source.location, wish.source.revision) if _is_remote(wish) else None
    there = remote and _there(wish, remote.commit)
    if there:
        return there
    with stage(wish.key, meter=meter) as staged:
        # Whoever held the stage before may have brought it meanwhile.
        there = remote and _there(wish, remote.commit)
        if there:
            return there
        brought = _fetch(wish, remote, staged, meter) if remote else _copy(wish, staged, meter)
        return staged.publish(_finish(wish, brought, staged.folder, meter))


def _is_remote(wish: Wish) -> bool:
    return wish.source.kind == "hub"


def _there(wish: Wish, commit: str) -> Entry | None:
    """The same import, done before and unchanged since."""
    for entry in catalog.entries():
        known = entry.manifest
        same = (known.kind, known.location, known.file, known.commit, known.weights) == (
            *("hub", wish.source.location, wish.source.file),
            *(commit, wish.weights),
        )
        scheme = known.quantised.scheme if known.quantised else None
        if same and scheme == wish.scheme and catalog.untouched(entry) is None:
            return entry
    return None


def _fetch(wish: Wish, remote: hub.Remote, staged: Stage, meter: Meter) -> _Brought:
    known = {file.path: file for file in remote.files}
    chosen = choose.choose(
        [*known], wish.weights, file=wish.source.file, where=remote.id, convert=wish.convert
    )
    files = [known[path] for path in chosen.files]
    total = sum(file.bytes for file in files)
    staged.reserve(_room(wish, chosen, total, fresh=total))
    records = hub.fetch(remote, files, staged.folder, meter)
    return _Brought(chosen, records, remote.commit, remote.licence)


def _copy(wish: Wish, staged: Stage, meter: Meter) -> _Brought:
    path = Path(wish.source.location)
    root = path.parent if path.is_file() else path
    names = local.names(root)
    file = path.name if path.is_file() else wish.source.file
    chosen = choose.choose(names, wish.weights, file=file, where=str(path), convert=wish.convert)
    total = sum((root / name).stat().st_size for name in chosen.files)
    fresh = local.bytes_to_copy(root, chosen.files, staged.folder)
    staged.reserve(_room(wish, chosen, total, fresh=fresh))
    records = local.bring(root, chosen.files, staged.folder, meter)
    return _Brought(chosen, records, None, gate.licence(root, chosen.main))


def _room(wish: Wish, chosen: choose.Chosen, total: int, *, fresh: int) -> int:
    """Bytes that the stage needs: what is converted or quantised stands beside what it was.

    `total` bytes are in the chosen files, of which `fresh` are not on this disk yet.
    """
    return fresh + total * (bool(chosen.pickled) + bool(wish.scheme))


def _finish(wish: Wish, brought: _Brought, folder: Path, meter: Meter) -> Manifest:
    """Makes of what was brought what will be loaded, and checks it."""
    main, records = brought.chosen.main, brought.records
    if brought.chosen.pickled:
        convert.convert(folder, meter)
        records = local.records(folder, meter)
    meter.begin("checking", note=wish.source.label)
    gate.check_model(folder, weights=wish.weights, main=main, family=wish.family)
    quantised: Quantised | None = None
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
        kind="hub" if _is_remote(wish) else "path",
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
