"""Installed packages that offer families, as files, for child processes that import them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FAMILY = """
from typing import ClassVar
from open_llm_server import LLMRunnable
from open_llm_server.config.schema import ModelConfig

class Config(ModelConfig):
    warmth: int = 3

class Family(LLMRunnable):
    engine = "sample"
    weights = "none"
    Config = Config
"""


def install(place: Path, package: str, offers: dict[str, str], code: str = FAMILY) -> None:
    """Puts module `package` and the metadata of a distribution of that name into `place`."""
    (place / f"{package}.py").write_text(code)
    info = place / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in offers.items()]
    (info / "entry_points.txt").write_text("[open_llm_server.families]\n" + "\n".join(lines) + "\n")


def run(
    place: Path, *arguments: str, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A Python process that sees the packages in `place`, and no variable of ours."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("OPEN_LLM_")}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**inherited, **(environ or {}), "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        timeout=60,
    )
