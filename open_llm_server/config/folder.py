"""Where the cards and the built-in weights are: inside a wheel, or beside the sources."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def models_folder() -> Path:
    """The folder of `*.yaml` cards, with a folder each for built-in weights."""
    inside = _PACKAGE / "models"
    return inside if inside.is_dir() else _PACKAGE.parent / "models"
