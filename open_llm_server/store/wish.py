"""What somebody wants to have in the store, and what it is called there. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..config.models import Source
from .manifest import Manifest
from .places import Tag, slug

if TYPE_CHECKING:
    from ..runnable import LLMRunnable

_COMMIT_SHOWN = 12
_FILE_SHOWN = 8
_LONGEST_HEAD = 40


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
    def is_remote(self) -> bool:
        return self.source.kind == "hub"

    @property
    def key(self) -> str:
        """The same for every import of the same, whatever it is to be called."""
        about = [self.source.kind, self.source.location, self.source.file, self.scheme]
        digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:_COMMIT_SHOWN]
        return f"{slug(self._origin)[:_LONGEST_HEAD].rstrip('-._')}-{digest}"

    @property
    def _origin(self) -> str:
        if self.is_remote:
            return self.source.location
        return Path(self.source.file or self.source.location).stem

    def tag(self, version: str) -> Tag:
        """`version`: a commit, or the hash of the files."""
        parts = [version[:_COMMIT_SHOWN]]
        if self.is_remote and self.source.file:
            parts.append(hashlib.sha256(self.source.file.encode()).hexdigest()[:_FILE_SHOWN])
        if self.scheme:
            parts.append(self.scheme)
        return Tag(slug(self.name or self._origin), "-".join(parts))

    def has_scheme_of(self, known: Manifest) -> bool:
        return self.scheme == (known.quantised.scheme if known.quantised else None)
