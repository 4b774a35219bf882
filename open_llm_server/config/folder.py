"""Where the cards and the built-in weights are, and where BentoML keeps what was imported."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def models_folder() -> Path:
    """The folder of `*.yaml` cards, with a folder each for built-in weights: inside a wheel, or
    beside the sources."""
    inside = _PACKAGE / "models"
    return inside if inside.is_dir() else _PACKAGE.parent / "models"


def bentoml_home() -> Path:
    """BentoML's own folder: BENTOML_HOME, or `bentoml` in the person's home."""
    return Path(os.environ.get("BENTOML_HOME") or "~/bentoml").expanduser().absolute()
