"""What `open-llm-server build` puts into a Bento beside the code: which models, and their settings.

Owns the files' names and the shape of the list of models; who writes and who reads it share this.
Knows neither BentoML nor the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from .config import yaml_file
from .config.models import ModelSpec, Source
from .errors import ConfigurationError

SERVICE = "open_llm_server.bento_service:svc"
MODELS = "bento-models.yaml"
SETTINGS = "bento-settings.yaml"
"""A configuration as `start --configuration` takes it."""


class BentoModel(BaseModel):
    """One model of a Bento.

    With `weights`, a tag of BentoML's model store, its weights travel with the Bento; with
    `source`, a hub id, they are imported where it is served; with neither, they are built in or
    there are none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: str
    """A family's or a card's name."""
    source: str | None = None
    weights: str | None = None
    file: str | None = None
    """The file of `weights` to load; `None`: the folder."""

    def spec(self, folder: Path | None) -> str:
        """As the command line names it; `folder` is where its `weights` are."""
        source = Source.parse(self.source) if self.source else None
        if folder is not None:
            source = Source(kind="path", location=str(folder), file=self.file)
        return str(ModelSpec(name=self.name, family=self.family, source=source))


class _List(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[BentoModel, ...]


def write(folder: Path, models: Sequence[BentoModel], settings: dict[str, Any]) -> None:
    """Writes both files into `folder`. A pre-prompt becomes a file of its own, because a text may
    also be read as a file's name."""
    listed = _List(models=tuple(models)).model_dump(mode="json", exclude_none=True)
    _dump(folder / MODELS, listed, "What this Bento serves.")
    sections = {name: dict(values) for name, values in settings.items()}
    for name, values in sections.items():
        if prompt := values.get("prompt"):
            values["prompt"] = f"bento-prompt-{name}.txt"
            (folder / values["prompt"]).write_text(prompt, encoding="utf-8")
    _dump(folder / SETTINGS, sections, "How it serves; variables OPEN_LLM_* have precedence.")


def read_models(folder: Path) -> tuple[BentoModel, ...]:
    """What `write` wrote. Raises ConfigurationError."""
    path = folder / MODELS
    try:
        return _List.model_validate(yaml_file.read(path)).models
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigurationError(
            f"{path} is not as `open-llm-server build` wrote it ({where}: {first['msg']}); build "
            "the Bento again"
        ) from error


def _dump(path: Path, content: dict[str, Any], comment: str) -> None:
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    path.write_text(f"# {comment}\n{text}", encoding="utf-8")
