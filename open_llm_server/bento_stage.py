"""Lays out, in a folder, what BentoML shall make a Bento of: sources, cards, contents, bentofile.

Works from a checkout and from an installed package alike. Values that come from people reach the
bentofile only in fields that BentoML neither runs nor writes into a Dockerfile.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from . import __version__, bento_contents
from .bento_contents import BentoModel
from .bento_settings import Settings
from .config.cards import cards
from .config.folder import models_folder
from .config.models import Source
from .config.resolved import ModelPlan
from .errors import StartError

_PACKAGE = Path(__file__).resolve().parent
_NOT_CODE = shutil.ignore_patterns("__pycache__", "*.pyc")
_LONGEST_LABEL = 63


def lay_out(
    folder: Path,
    *,
    name: str,
    plans: Sequence[ModelPlan],
    models: Sequence[BentoModel],
    weights: Sequence[str],
    settings: Settings,
    requirements: Sequence[str],
    extra_index_url: str | None,
) -> None:
    """Fills `folder`, which is empty; `weights` are tags of BentoML's model store.

    Raises StartError, OSError.
    """
    _sources(folder, plans)
    bento_contents.write(folder, models, settings.sections)
    (folder / "README.md").write_text(_readme(name, models), encoding="utf-8")
    python: dict[str, Any] = {"packages": list(requirements), "lock_packages": False}
    if extra_index_url:
        python["extra_index_url"] = [extra_index_url]
    bentofile = {
        "service": bento_contents.SERVICE,
        "name": name,
        "labels": {
            "project": "open-llm-server",
            "release": __version__,
            "models": _label(models),
        },
        "models": list(weights),
        "python": python,
    }
    (folder / "bentofile.yaml").write_text(yaml.safe_dump(bentofile, sort_keys=False))


def _sources(folder: Path, plans: Sequence[ModelPlan]) -> None:
    target = folder / _PACKAGE.name

    def ignore(place: str, names: list[str]) -> set[str]:
        own = {"models"} if Path(place) == _PACKAGE else set()
        return own | _NOT_CODE(place, names)

    shutil.copytree(_PACKAGE, target, ignore=ignore)
    shutil.copytree(_client(), folder / "open_llm_client", ignore=_NOT_CODE)
    here, there = models_folder(), target / "models"
    there.mkdir()
    for card in here.glob("*.yaml"):
        shutil.copyfile(card, there / card.name)
    # The built-in model always travels; its twin for torch where it is asked for.
    tiny = Source.parse(cards()["tiny"].source or "")
    for source in {tiny, *(plan.source for plan in plans if plan.source)}:
        if source.kind == "builtin":
            _copy(here / source.location, there / source.location)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=_NOT_CODE)
    else:
        shutil.copyfile(source, target)


def _client() -> Path:
    found = find_spec("open_llm_client")
    if found is None or found.origin is None:
        raise StartError(
            "open-llm-client is not installed, and belongs to this server; install it: "
            "pip install open-llm-client"
        )
    return Path(found.origin).parent


def _label(models: Sequence[BentoModel]) -> str:
    """Their names as the value of a Kubernetes label, which BentoML's labels become."""
    return "_".join(model.name for model in models)[:_LONGEST_LABEL].strip("-_.")


def _readme(name: str, models: Sequence[BentoModel]) -> str:
    lines = [f"- `{model.name}` ({model.family}): {_whence(model)}" for model in models]
    return "\n".join(
        [
            f"# {name}",
            "",
            f"Made by open-llm-server {__version__}. It serves:",
            "",
            *lines,
            "",
            "Routes: `/chat`, `/complete`, `/embed`, and those of OpenAI under `/v1`. Variables "
            "OPEN_LLM_* beat the settings in this Bento; set OPEN_LLM_API_KEY where others can "
            "reach it.",
            "",
        ]
    )


def _whence(model: BentoModel) -> str:
    if model.weights:
        return f"weights `{model.weights}`, which travel with this Bento"
    return f"weights `{model.source}`, imported where it is served" if model.source else "built in"
