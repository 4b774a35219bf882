"""What an imported model's folder says of itself: where it came from, and every file with its hash.

Owns the file's shape, how it is written and read. Facts only: what nobody said is `None`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import WeightsError
from .places import Tag

NAME = "open-llm-server.json"
LARGEST = 16 * 1024**2
FORMAT = 1
"""The shape of the file below; a later release counts on when it changes it."""
MAIN = "main"
"""The revision that is meant where none is named."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileRecord(BaseModel):
    """One file of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Relative to the model's folder, with `/`."""
    bytes: int = Field(ge=0)
    sha256: Sha256
    mtime_ns: int = 0
    """When it was last written. A cheap sign of change, for files that share their data with
    those they were imported from."""
    checked: Literal["hub", "none"] = "none"
    """Whether somebody else said the hash first."""


class Quantised(BaseModel):
    """What was made of the imported weights, and what it costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: str
    """`q8_0`, `q4_k_m` or `int8`."""
    original: tuple[FileRecord, ...]
    """The weights that it was made from; they are not kept."""
    bytes_before: int
    bytes_after: int
    perplexity_before: float | None
    perplexity_after: float | None
    """On `text`; `None` where the weights foretell no text."""
    text: str | None = None
    """Which text, and how many tokens of it."""
    speed: float | None = None
    """Tokens a second after, over before, on this machine; `None` where it was not measured."""
    speed_of: str | None = None
    """The dtype that it was computed in before, when that was measured."""
    processor: str | None = None
    """What it was measured on."""


class Manifest(BaseModel):
    """A whole model in the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    tag: str
    family: str
    """The family that it was imported for, and checked by."""
    weights: Literal["gguf", "folder"]
    kind: Literal["hub", "path"]
    location: str
    """A hub id, or an absolute path."""
    file: str | None = None
    """The GGUF file that was asked for by name."""
    main: str | None = None
    """The file to load; `None`: the folder."""
    revision: str | None = None
    """As it was asked for."""
    asked_since: dict[str, datetime] = Field(default_factory=dict)
    """Under which revisions the same was asked for later on, and when last."""
    commit: str | None = None
    """What the revision stood for."""
    licence: str | None = None
    imported_at: datetime
    converted: bool = False
    """Whether the weights were pickled, and were converted here."""
    quantised: Quantised | None = None
    files: tuple[FileRecord, ...]
    server: str
    """The release that imported it."""

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def origin_file(self) -> str | None:
        """The GGUF file of the source that it was made of; `None` for checkpoints."""
        if self.weights == "folder" or self.file:
            return self.file
        if self.quantised and self.quantised.original:
            return min(record.path for record in self.quantised.original)
        return self.main

    @property
    def asked(self) -> dict[str, datetime]:
        """All revisions that led to it, and when each was asked for last."""
        return {self.revision or MAIN: self.imported_at, **self.asked_since}

    @property
    def source(self) -> str:
        """As a person names it, with the revision that was asked for."""
        revision = f":{self.revision}" if self.revision else ""
        return f"{self.location}{revision}" + (f"#{self.file}" if self.file else "")


@dataclass(frozen=True)
class Entry:
    """A model in the store, found by its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def tag(self) -> Tag:
        return Tag.parse(self.manifest.tag)

    @property
    def path(self) -> Path:
        """What an engine loads: a file or the folder."""
        return self.folder / self.manifest.main if self.manifest.main else self.folder


def read(folder: Path) -> Manifest:
    """The manifest in `folder`. Raises WeightsError; FileNotFoundError where there is none."""
    content = _content(folder)
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        if _is_newer(content):
            raise WeightsError(newer_words(folder)) from error
        raise WeightsError(
            f"{folder / NAME} is damaged; remove the model with `open-llm-server "
            f"models rm {folder.parent.name}:{folder.name}`, and import it again"
        ) from error


def is_newer(folder: Path) -> bool:
    """Whether a newer release wrote the manifest in `folder`: it is whole, and not for us."""
    try:
        return _is_newer(_content(folder))
    except (WeightsError, OSError):
        return False


def newer_words(folder: Path) -> str:
    """What to do about such a model."""
    return (
        f"{folder.parent.name}:{folder.name} was written by a newer release of open-llm-server: "
        "update this one, or set BENTOML_HOME to a folder of its own"
    )


def _content(folder: Path) -> bytes:
    path = folder / NAME
    try:
        if path.stat().st_size > LARGEST:
            raise WeightsError(f"{path} is too large to be what its name says; import again")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error


def _is_newer(content: bytes) -> bool:
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return False
    number = said.get("format") if isinstance(said, dict) else None
    return type(number) is int and number > FORMAT
