"""Where things lie under BENTOML_HOME, and how a model is named there. Pure.

    models/NAME/VERSION/    a whole model, as BentoML's own store has it
    models/NAME/latest      the version that NAME alone means
    .open-llm-server/       what is being made (`staging`), thrown away (`trash`), or held (`locks`)

Unfinished things lie outside of `models`, because BentoML takes every folder in there for a model;
on the same file system, because only there a rename is one step.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from ..config.folder import bentoml_home
from ..errors import ConfigurationError

_NAME = re.compile(r"[a-z0-9](?:[-._a-z0-9]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"[a-z0-9](?:[-._a-z0-9]{0,61}[a-z0-9])?")
_LONGEST_NAME = 63
_HASH = 8


@dataclass(frozen=True, order=True)
class Tag:
    """`NAME:VERSION`, in BentoML's spelling, which knows no capitals."""

    name: str
    version: str

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Raises ConfigurationError."""
        name, colon, version = text.partition(":")
        if not (colon and _NAME.fullmatch(name) and _VERSION.fullmatch(version)):
            raise ConfigurationError(
                f"{text!r} is not the tag of an imported model, which is NAME:VERSION; "
                "`open-llm-server models list --local` shows them"
            )
        return cls(name, version)

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def folder(self) -> Path:
        return models() / self.name / self.version


def models() -> Path:
    """Where whole models are."""
    return bentoml_home() / "models"


def workshop() -> Path:
    """Where everything is that is not a whole model."""
    return bentoml_home() / ".open-llm-server"


def staging() -> Path:
    return workshop() / "staging"


def trash() -> Path:
    return workshop() / "trash"


def locks() -> Path:
    return workshop() / "locks"


def slug(text: str) -> str:
    """A name that BentoML takes, readable and different for different texts.

    `google/flan-t5-base` is `google--flan-t5-base`; where letters are lost, a hash is added.
    """
    plain = re.sub(r"[^-._a-z0-9]+", "-", text.lower().replace("/", "--")).strip("-._")
    if plain and plain.replace("--", "/") == text and len(plain) <= _LONGEST_NAME:
        return plain
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH]
    head = plain[: _LONGEST_NAME - _HASH - 1].rstrip("-._")
    return f"{head}-{digest}" if head else f"model-{digest}"
