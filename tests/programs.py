"""Modules that stand in no package, such as those of scripts/."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@cache
def load(path: Path, name: str = "") -> ModuleType:
    """The module in `path`, under `name` or its own."""
    name = name or path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there for the names of their types
    spec.loader.exec_module(module)
    return module


def script(name: str) -> ModuleType:
    return load(SCRIPTS / f"{name}.py")
