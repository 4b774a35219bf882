"""The YAML configuration: sections `server:`, `defaults:`, one per model or family, `models:`.

Relative paths in it start at the file's own folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from . import yaml_file
from .fields import FieldFacts
from .layers import Layer, absolute
from .vocabulary import CONFIGURATION, SERVER_FACTS, Vocabulary
from .words import suggest

SERVER = "server"
DEFAULTS = "defaults"
MODELS = "models"


class Document:
    """A configuration file, or an empty one where none is given."""

    def __init__(self, path: Path | None, content: Mapping[str, Any]) -> None:
        self._path = path
        self._content = content

    @classmethod
    def read(cls, location: str | None) -> Document:
        """The file at `location`, relative to the working directory."""
        if location is None:
            return cls(None, {})
        path = absolute(location, Path.cwd())
        if not path.is_file():
            raise ConfigurationError(
                f"there is no configuration file {location!r} (--configuration, {CONFIGURATION})"
            )
        return cls(path, yaml_file.read(path))

    @property
    def path(self) -> Path | None:
        return self._path

    @property
    def folder(self) -> Path:
        return self._path.parent if self._path else Path.cwd()

    @property
    def models(self) -> tuple[str, ...]:
        """What `models:` lists."""
        listed = self._content.get(MODELS) or ()
        words = [listed] if isinstance(listed, str) else listed
        if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
            raise ConfigurationError(f"{self._name(MODELS)}: must be a list of models' names")
        return tuple(words)

    def check(self, vocabulary: Vocabulary) -> None:
        """Refuses sections and keys that nothing would read."""
        for section, body in self._content.items():
            if section == MODELS:
                continue
            self._check_section(section, vocabulary)
            if body is not None and not isinstance(body, dict):
                raise ConfigurationError(
                    f"{self._name(section)}: must hold lines of `setting: value`"
                )
            legal = self._legal(section, vocabulary)
            for key in body or {}:
                vocabulary.check_field(str(key), legal, self._name(section))

    def server_layer(self) -> Layer:
        return self._layer(SERVER, SERVER_FACTS)

    def model_layers(
        self, names: Sequence[str], fields: Mapping[str, FieldFacts]
    ) -> tuple[Layer, ...]:
        """The values of one model that goes by `names`, the most special first."""
        return tuple(self._layer(section, fields) for section in (*names, DEFAULTS))

    def _layer(self, section: str, fields: Mapping[str, FieldFacts]) -> Layer:
        body = self._content.get(section) or {}
        values = {key: value for key, value in body.items() if key in fields}
        origin = f"{self._name(section)}:"
        return Layer(values, dict.fromkeys(values, origin), base=self.folder)

    def _check_section(self, section: str, vocabulary: Vocabulary) -> None:
        legal = {SERVER, DEFAULTS, MODELS, *vocabulary.model_names}
        if section not in legal:
            assert self._path is not None
            raise ConfigurationError(
                f"{self._path.name}: there is no section {section!r}{suggest(section, legal)}"
            )

    def _legal(self, section: str, vocabulary: Vocabulary) -> set[str]:
        if section == SERVER:
            return set(SERVER_FACTS)
        if section == DEFAULTS:
            return set(vocabulary.shared_fields(thorough=True))
        return set(vocabulary.fields_of(section))

    def _name(self, section: str) -> str:
        return f"{self._path.name} {section}" if self._path else section
