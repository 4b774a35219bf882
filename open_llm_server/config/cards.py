"""A card per model: what it is, where it comes from, how it is spoken to. Facts only.

Owns the schema of `models/*.yaml` and reads them. Knows no family's code.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..errors import ConfigurationError
from . import yaml_file
from .folder import models_folder
from .models import Source, check_name


class Turns(BaseModel):
    """A prompt format without a template language: each turn's text with `{content}` in it.

    `reply` is what the model continues. Everything else is literal text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    user: str
    assistant: str
    reply: str
    default_system: str | None = None
    """Stands where a conversation brings no system message."""
    between: str = ""
    """Stands between each two turns, where the turns themselves have no borders."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer, where these turns are a `Card.fallback`."""

    @field_validator("system", "user", "assistant")
    @classmethod
    def _holds_content(cls, text: str) -> str:
        if text.count("{content}") != 1:
            raise ValueError("must hold {content} exactly once")
        return text


class Card(BaseModel):
    """What is known about one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: str
    description: str
    licence: str | None = None
    """`None`: depends on the weights that one brings."""
    parameters: str | None = None
    """For people, such as "7B"."""
    source: str | None = None
    """SOURCE of the model grammar; `None`: the person names the weights."""
    download: str | None = None
    """Where a person finds the weights, in a sentence."""
    context_length: int | None = Field(default=None, ge=16)
    """Of the card's own weights; other weights under this card bring their own."""
    turns: Turns | None = None
    """`None`: the template inside the weights."""
    fallback: Turns | None = None
    """For weights without a template of their own, where `turns` is `None`; where it is too, that
    of the family's card."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer in this format, whatever the caller asks for."""
    end_tokens: tuple[str, ...] = ()
    """Spellings of control tokens that end an answer, beside the ones that the weights name."""
    defaults: dict[str, Any] = Field(default_factory=dict)
    """Values of `ModelConfig` fields that suit this model."""

    @field_validator("source")
    @classmethod
    def _is_source(cls, text: str | None) -> str | None:
        if text is not None:
            Source.parse(text)
        return text


@cache
def cards() -> dict[str, Card]:
    """Every card by name, in alphabetical order."""
    paths = sorted(models_folder().glob("*.yaml"), key=lambda path: path.stem)
    return {path.stem: load_card(path) for path in paths}


def load_card(path: Path) -> Card:
    """Reads one card. Raises ConfigurationError that names the file and what is wrong in it."""
    content = yaml_file.read(path)
    try:
        card = Card.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{path.name}: {where}: {first['msg']}") from error
    if card.name != path.stem:
        raise ConfigurationError(f"{path.name}: is named {card.name!r}, its file is not")
    check_name(card.name, path.name)
    return card
