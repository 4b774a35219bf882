"""Which names are legal where: families, cards, aliases, their fields, and their variables.

Everything that is refused for its name is refused here, with the nearest legal one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError
from ..registry import Registry
from .cards import Card, cards
from .fields import FieldFacts, facts_of, variable
from .models import ModelSpec
from .schema import ModelConfig, ServerConfig
from .words import suggest

PREFIX = "OPEN_LLM_"
CONFIGURATION = "OPEN_LLM_CONFIGURATION"
DEVICE = "OPEN_LLM_DEVICE"
MODELS = "OPEN_LLM_MODELS"
# Variables that are no field of any model's or the server's configuration.
RESERVED_VARIABLES: dict[str, str] = {
    CONFIGURATION: "path of the YAML configuration",
    MODELS: "models to start when none is named",
    "OPEN_LLM_RESOLVED": "path of the merged configuration, set by the server for its processes",
    DEVICE: "devices, as for --device",
    "OPEN_LLM_ENDPOINT": "server that the client talks to",
}

WHERE_THEY_ARE = "`open-llm-server start --help` names those there are"

SERVER_FACTS: Mapping[str, FieldFacts] = facts_of(ServerConfig)


@dataclass(frozen=True)
class Meaning:
    """What a variable sets: `field` of the model or family `name`, of the server, or of all."""

    name: str | None
    field: str


class Vocabulary:
    """The names of one start: all families and cards, and the aliases of `specs`."""

    def __init__(self, specs: Iterable[ModelSpec] = ()) -> None:
        self._aliases = {spec.name: spec.family for spec in specs}
        self._refuse_ambiguous_aliases()

    @property
    def model_names(self) -> tuple[str, ...]:
        """Every name that a model, card or family can be called by."""
        return tuple(sorted({*Registry.names(), *cards(), *self._aliases}))

    def card_of(self, name: str) -> Card | None:
        """The card behind an alias, card or family name, if there is one."""
        return cards().get(self._aliases.get(name, name))

    def family_of(self, name: str) -> str:
        """The family behind an alias, card or family name. Refuses unknown ones."""
        word = self._aliases.get(name, name)
        card = cards().get(word)
        family = card.family if card else word
        if family not in Registry.names():
            if card:
                raise ConfigurationError(f"{name}: its family {family!r} is not installed")
            known = {*Registry.names(), *cards()}
            raise ConfigurationError(f"there is no model or family {word!r}{suggest(word, known)}")
        return family

    def config_of(self, name: str) -> type[ModelConfig]:
        """The settings of the family behind `name`."""
        return _config_of(self.family_of(name))

    def fields_of(self, name: str) -> Mapping[str, FieldFacts]:
        return facts_of(self.config_of(name))

    def shared_fields(self, *, thorough: bool = False) -> dict[str, FieldFacts]:
        """The fields of all families that cost nothing to ask; with `thorough`, of every one."""
        found: dict[str, FieldFacts] = dict(facts_of(ModelConfig))
        names = {*Registry.own_names(), *map(self.family_of, self._aliases)}
        if thorough:
            names |= set(Registry.names())
        for name in sorted(names):
            try:
                config = _config_of(name)
            except ConfigurationError:
                continue  # a broken plug-in is reported when it is asked for by name
            found = {**facts_of(config), **found}
        return found

    def families_with(self, field: str) -> list[str]:
        """The families whose configuration has `field`."""
        names = Registry.own_names()
        return [name for name in names if field in Registry.get(name).Config.model_fields]

    def check_field(self, field: str, legal: Iterable[str], where: str) -> None:
        """Refuses a field's name that is not in `legal`; `where` says where it stood."""
        legal = set(legal)
        if field not in legal:
            hint = suggest(field, legal) or f"; {WHERE_THEY_ARE}"
            raise ConfigurationError(f"{where}: there is no setting {field!r}{hint}", param=field)

    def check_name(self, name: str, where: str) -> None:
        """Refuses what is no model's, card's or family's name."""
        if name not in self.model_names:
            raise ConfigurationError(
                f"{where}: there is no model or family {name!r}{suggest(name, self.model_names)}"
            )

    def variables(self, present: Sequence[str]) -> dict[str, Meaning]:
        """Legal variables and what they set. Families from elsewhere are only asked for their
        fields when a name in `present` begins with theirs."""
        shared = self.shared_fields()
        legal = {variable(field): Meaning(None, field) for field in (*SERVER_FACTS, *shared)}
        cheap = {*Registry.own_names(), *cards(), *self._aliases}
        for name in self.model_names:
            prefix = variable(name) + "_"
            mentioned = any(word.startswith(prefix) for word in present)
            if not mentioned and (name not in cheap or self._is_foreign(name)):
                continue
            try:
                fields = self.fields_of(name)
            except ConfigurationError:
                if mentioned and name not in cards():
                    raise
                continue  # a card of a family that is not installed
            legal |= {variable(name, field): Meaning(name, field) for field in fields}
        if any(word not in legal for word in present):
            thorough = self.shared_fields(thorough=True)
            legal = {variable(field): Meaning(None, field) for field in thorough} | legal
        return legal

    def _is_foreign(self, name: str) -> bool:
        try:
            return self.family_of(name) not in Registry.own_names()
        except ConfigurationError:
            return True

    def _refuse_ambiguous_aliases(self) -> None:
        general = {variable(field) for field in (*SERVER_FACTS, *self.shared_fields())}
        general |= set(RESERVED_VARIABLES)
        for alias in self._aliases:
            if alias in Registry.names() or alias in cards():
                continue
            for field in self.fields_of(alias):
                if variable(alias, field) in general:
                    raise ConfigurationError(
                        f"a model cannot be called {alias!r}: {variable(alias, field)} would mean "
                        "two things; take another name"
                    )


def _config_of(family: str) -> type[ModelConfig]:
    config: Any = Registry.get(family).Config
    if not (isinstance(config, type) and issubclass(config, ModelConfig)):
        raise ConfigurationError(f"family {family!r}: its Config is not a subclass of ModelConfig")
    for field in config.model_fields:
        if field in SERVER_FACTS or variable(field) in set(RESERVED_VARIABLES) - {DEVICE}:
            raise ConfigurationError(
                f"family {family!r}: its setting {field!r} means something else already"
            )
    return config
