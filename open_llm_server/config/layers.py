"""Layers of values, merged and validated by pydantic-settings; remembers where each came from.

A layer is a set of values from one place. Knows neither which places there are nor their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from ..errors import ConfigurationError
from .fields import FieldFacts, facts_of

DEFAULT = "default"
_FILE_ENDINGS = (".txt", ".md", ".text", ".prompt")
_MAX_PROMPT_BYTES = 1_000_000

Config = TypeVar("Config", bound=BaseModel)


@dataclass(frozen=True)
class Layer:
    """Values by field name, and what to call the place of each. Paths are relative to `base`."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    base: Path = field(default_factory=Path.cwd)


@dataclass(frozen=True)
class Given:
    """A value as it stands in its place; paths in it are relative to `base`."""

    value: Any
    base: Path


@dataclass(frozen=True)
class Merged:
    """JSON values of every field, the origin of each, and what those that are not defaults are
    made of."""

    values: dict[str, Any]
    origins: dict[str, str]
    given: dict[str, Given]


def merge_layers(model: type[BaseModel], layers: Sequence[Layer]) -> Merged:
    """Fills `model` from `layers`, the first that has a field wins.

    Raises ConfigurationError that names the place of a wrong value.
    """
    origins: dict[str, str] = {}
    given: dict[str, Given] = {}
    settings = _settings_class(model, layers, origins, given)
    try:
        merged = settings()
    except ValidationError as error:
        raise _explain(error, facts_of(model), origins) from error
    complete = {name: origins.get(name, DEFAULT) for name in model.model_fields}
    return Merged(merged.model_dump(mode="json"), complete, given)


def _settings_class(
    model: type[BaseModel],
    layers: Sequence[Layer],
    origins: dict[str, str],
    given: dict[str, Given],
) -> type[BaseSettings]:
    # mypy knows no base class that is an argument; pydantic-settings reads its fields.
    class Sourced(model, BaseSettings):  # type: ignore[misc, valid-type]
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            facts = facts_of(model)
            return tuple(_Source(settings_cls, layer, facts, origins, given) for layer in layers)

    return Sourced


class _Source(PydanticBaseSettingsSource):
    """One layer, for pydantic-settings; touches only values that no earlier layer had."""

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        layer: Layer,
        facts: Mapping[str, FieldFacts],
        origins: dict[str, str],
        given: dict[str, Given],
    ) -> None:
        super().__init__(settings_cls)
        self._layer = layer
        self._facts = facts
        self._origins = origins
        self._given = given

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._layer.values[field_name], field_name, False

    def __call__(self) -> dict[str, Any]:
        winners: dict[str, Any] = {}
        for name, value in self._layer.values.items():
            if name in self.current_state:
                continue
            origin = self._layer.origins[name]
            self._origins[name] = origin
            self._given[name] = Given(value, self._layer.base)
            where = origin.removesuffix(":")
            winners[name] = settle(self._facts[name], value, base=self._layer.base, origin=where)
        return winners


def settle(facts: FieldFacts, value: Any, *, base: Path, origin: str) -> Any:
    """Makes paths absolute, and reads a text that was given as a file."""
    if facts.is_text_or_path and isinstance(value, str):
        return _text_or_file(value, base, origin)
    if not facts.is_path:
        return value
    if isinstance(value, str):
        return _existing(value, base, origin)
    if isinstance(value, (list, tuple)):
        return tuple(
            _existing(item, base, origin) if isinstance(item, str) else item for item in value
        )
    return value


def absolute(text: str, base: Path) -> Path:
    """`text` as a path from `base`, with `~` and `..` worked out."""
    return Path(base, Path(text).expanduser()).resolve()


def _existing(text: str, base: Path, origin: str) -> str:
    path = absolute(text, base) if text and "\0" not in text else None
    if path is None or not path.exists():
        raise ConfigurationError(f"{origin}: there is no file {text!r} in {base}")
    return str(path)


def named_file(text: str, base: Path) -> Path | None:
    """The file that is meant where a text or a file can be given; `None`: the text is."""
    try:
        path = absolute(text, base)
        return path if text and "\n" not in text and path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, an unknown ~user
        return None


def _text_or_file(text: str, base: Path, origin: str) -> str:
    looks_like_file = not any(map(str.isspace, text)) and text.endswith(_FILE_ENDINGS)
    path = named_file(text, base)
    if path is None:
        if looks_like_file:
            raise ConfigurationError(
                f"{origin}: there is no file {text!r} in {base}; "
                "want an existing file, or a text of more than one word"
            )
        return text
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_PROMPT_BYTES + 1)
        if len(raw) > _MAX_PROMPT_BYTES:
            raise ConfigurationError(f"{origin}: {path} is over {_MAX_PROMPT_BYTES} bytes")
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{origin}: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{origin}: {path} is not a text in UTF-8") from error


def _explain(
    error: ValidationError, facts: Mapping[str, FieldFacts], origins: Mapping[str, str]
) -> ConfigurationError:
    problem = error.errors(include_url=False)[0]
    reason = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return ConfigurationError(reason)
    name = str(problem["loc"][0])
    origin = origins.get(name, DEFAULT)
    about = facts.get(name)
    secret = about is not None and about.is_secret
    given = "" if secret else f", not {_short(problem['input'])}"
    named = not origin.endswith(":") and name in origin.replace("-", "_").lower()
    if about is not None and not named:
        origin = f"{origin} {name}"
    if problem["type"] == "value_error":
        given = ""
    if problem["type"] == "string_pattern_mismatch" and name == "api_key":
        reason = "a key is made of visible ASCII characters, without blanks"
    return ConfigurationError(f"{origin}: {reason[:1].lower()}{reason[1:]}{given}", param=name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
