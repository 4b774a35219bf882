"""The OPEN_LLM_* variables: which there are, whether they are legal, what they say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import ConfigurationError
from .fields import FieldFacts, decode, variable
from .layers import Layer
from .placement import Placement, parse_placements
from .vocabulary import (
    DEVICE,
    PREFIX,
    RESERVED_VARIABLES,
    SERVER_FACTS,
    WHERE_THEY_ARE,
    Vocabulary,
)
from .words import suggest


class Environment:
    """Variables that are set and not empty; an empty one counts as not set."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._values = {
            name: text for name, text in environ.items() if name.startswith(PREFIX) and text
        }

    def get(self, name: str) -> str | None:
        return self._values.get(name)

    def check(self, vocabulary: Vocabulary) -> None:
        """Refuses a variable that no part of this server or its client would read."""
        present = [name for name in self._values if name not in RESERVED_VARIABLES]
        legal = vocabulary.variables(present) if present else {}
        for name in present:
            if name not in legal:
                raise ConfigurationError(
                    f"environment: there is no variable {name}{_hint(name, legal)}", param=name
                )
        for placement in self.placements():
            if placement.name is not None:
                vocabulary.check_name(placement.name, f"environment {DEVICE}")

    def server_layer(self) -> Layer:
        """The server's values."""
        return self._layer(SERVER_FACTS, {field: variable(field) for field in SERVER_FACTS})

    def model_layers(
        self, names: Sequence[str], fields: Mapping[str, FieldFacts]
    ) -> tuple[Layer, ...]:
        """The values of one model that goes by `names`, the most special first."""
        named = [
            self._layer(fields, {field: variable(name, field) for field in fields})
            for name in names
        ]
        plain = {field: variable(field) for field in fields if field != "device"}
        return (*named, self._device_layer(names), self._layer(fields, plain))

    def placements(self) -> tuple[Placement, ...]:
        text = self._values.get(DEVICE)
        return parse_placements([text]) if text else ()

    def _layer(self, fields: Mapping[str, FieldFacts], variables: Mapping[str, str]) -> Layer:
        values: dict[str, Any] = {}
        for field, name in variables.items():
            if name in self._values:
                values[field] = decode(fields[field], self._values[name])
        return Layer(values, {field: f"environment {variables[field]}" for field in values})

    def _device_layer(self, names: Sequence[str]) -> Layer:
        return device_layer(self.placements(), names, f"environment {DEVICE}")


def _hint(name: str, legal: Iterable[str]) -> str:
    for field in SERVER_FACTS:
        if name.endswith(f"_{field.upper()}"):
            return f"; {field} is a setting of the whole server: {variable(field)}"
    return suggest(name, {*legal, *RESERVED_VARIABLES}) or f"; {WHERE_THEY_ARE}"


def device_layer(placements: Sequence[Placement], names: Sequence[str], origin: str) -> Layer:
    """The placement that suits a model best: one of its names, else the one without a name."""
    by_name = {placement.name: placement.device for placement in placements}
    for name in (*names, None):
        if name in by_name:
            return Layer({"device": by_name[name]}, {"device": origin})
    return Layer({}, {})
