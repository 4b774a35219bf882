"""Makes a Bento for chosen models: weights first if they shall travel, then BentoML's own build.

Owns the order of the steps; `bento_run` runs BentoML. Weights stay where BentoML's
model store has them: a Bento names them, and only its export copies them.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .bento_contents import BentoModel
from .bento_needs import engines, plugins, requirements
from .bento_run import check_free, run_bentoml
from .bento_settings import Settings, settings_of
from .bento_stage import lay_out
from .config.folder import bentoml_home
from .config.models import ModelSpec
from .config.resolved import ModelPlan, Resolved
from .errors import ConfigurationError, StartError
from .store import catalog
from .store.importing import ensure, import_model
from .store.places import models as model_store

if TYPE_CHECKING:
    from .store.manifest import Entry
    from .store.progress import Listener

NAME = "open-llm-server"
_WORD = re.compile(r"[a-z0-9](?:[-._a-z0-9]{0,61}[a-z0-9])?")
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(?:/[\w./~%+-]*)?", re.ASCII)


@dataclass(frozen=True)
class Built:
    """A Bento in BentoML's store. Sizes in bytes."""

    tag: str
    folder: Path
    bytes: int
    models: tuple[BentoModel, ...]
    weights: tuple[Entry, ...]
    """What travels with it."""
    settings: Settings
    plugins: tuple[str, ...]
    """Packages that bring families of their own; a Bento only names them."""
    torch_unsaid: bool
    """Whether it needs torch, and nobody said which build of it an image shall get."""


def build(
    resolved: Resolved,
    *,
    with_weights: bool = False,
    name: str = NAME,
    version: str | None = None,
    extra_index_url: str | None = None,
    show: Callable[[], AbstractContextManager[Listener]],
) -> Built:
    """Makes a Bento that serves `resolved` with `bentoml serve`.

    Weights that shall travel and are not here are imported first, shown by `show`. Raises
    ConfigurationError, WeightsError, or StartError with what BentoML said.
    """
    _check_words(name, version, extra_index_url)
    settings = settings_of(resolved)
    needed = requirements(resolved)
    if not with_weights:
        _refuse_local(resolved)
    models: list[BentoModel] = []
    weights: dict[str, Entry] = {}
    for plan in resolved.models:
        entry = _entry(plan, show) if with_weights else None
        models.append(_model(plan, entry))
        if entry:
            weights[str(entry.tag)] = entry
    try:
        with tempfile.TemporaryDirectory(prefix="open-llm-bento-") as stage:
            lay_out(
                Path(stage),
                name=name,
                plans=resolved.models,
                models=models,
                weights=[*weights],
                settings=settings,
                requirements=needed,
                extra_index_url=extra_index_url,
            )
            tag = run_bentoml(Path(stage), name, version)
    except OSError as error:
        raise StartError(
            f"the Bento could not be laid out in {tempfile.gettempdir()}: {error}; make room "
            "there, or set TMPDIR to another folder"
        ) from error
    folder = bentoml_home() / "bentos" / Path(*tag.split(":"))
    return Built(
        tag=tag,
        folder=folder,
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        models=tuple(models),
        weights=tuple(weights.values()),
        settings=settings,
        plugins=tuple(plugins(resolved.models)),
        torch_unsaid=extra_index_url is None and "torch" in engines(resolved.models),
    )


def _check_words(name: str, version: str | None, extra_index_url: str | None) -> None:
    for flag, word in (("--name", name), ("--tag", version)):
        if word is not None and (not _WORD.fullmatch(word) or word == "latest"):
            raise ConfigurationError(
                f"{flag} {word!r}: want up to 63 small letters, digits, '-', '_' and '.', with a "
                "letter or digit at both ends, and not `latest`",
                param=flag.lstrip("-"),
            )
    if version:
        check_free(name, version)
    if extra_index_url is not None and not _URL.fullmatch(extra_index_url):
        raise ConfigurationError(
            "--extra-index-url: want the plain URL of a package index, https://…, without a "
            "password: everybody who has the Bento can read it",
            param="extra_index_url",
        )


def _refuse_local(resolved: Resolved) -> None:
    for plan in resolved.models:
        if plan.source and plan.source.kind in ("path", "store"):
            raise ConfigurationError(
                f"{plan.name}: {plan.source} is on this machine only, and a Bento without weights "
                "imports them from a hub where it is served; say --with-weights"
            )


def _entry(plan: ModelPlan, show: Callable[[], AbstractContextManager[Listener]]) -> Entry | None:
    """The weights in the store; imported now where they are not there."""
    if plan.source is None or plan.source.kind == "builtin":
        return None
    with show() as listener:
        if plan.source.kind == "path":
            return import_model(str(_spec(plan)), listener=listener)
        stored = ensure(plan, listener).stored
    assert stored is not None
    name, version = Path(stored).relative_to(model_store()).parts[:2]
    return catalog.get(f"{name}:{version}")


def _spec(plan: ModelPlan) -> ModelSpec:
    return ModelSpec(name=plan.name, family=plan.card or plan.family, source=plan.source)


def _model(plan: ModelPlan, entry: Entry | None) -> BentoModel:
    spec = _spec(plan)
    if entry:
        if "#" in (entry.manifest.main or ""):
            raise ConfigurationError(
                f"{plan.name}: {entry.manifest.main} has a '#' in its name, which stands before "
                "file names elsewhere; rename the file, and build again"
            )
        return BentoModel(
            name=spec.name, family=spec.family, weights=str(entry.tag), file=entry.manifest.main
        )
    hub = spec.source and spec.source.kind == "hub"
    return BentoModel(name=spec.name, family=spec.family, source=str(spec.source) if hub else None)
