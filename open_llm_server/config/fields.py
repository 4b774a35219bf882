"""What a pydantic model says about its fields, in the words that flags, files and texts need."""

from __future__ import annotations

import json
import types
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

Kind = Literal["integer", "number", "text", "choice", "boolean", "list"]


@dataclass(frozen=True)
class FieldFacts:
    """One field, as a person meets it."""

    name: str
    kind: Kind
    optional: bool
    choices: tuple[str, ...]
    default: Any
    description: str
    is_path: bool
    is_text_or_path: bool
    is_secret: bool

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return variable(self.name)

    @property
    def meaning_of_none(self) -> str:
        """What the description says about no value: `…; none: the model's own.`"""
        return self.description.partition("; none: ")[2].rstrip(".")

    def shown(self, value: Any) -> str:
        """`value` for people; of a secret, only whether there is one."""
        if self.is_secret:
            if not value:
                return "not set"
            if self.kind != "list":
                return "set"
            return f"set ({len(value)} {'key' if len(value) == 1 else 'keys'})"
        if value is None:
            return f"none ({self.meaning_of_none})" if self.meaning_of_none else "none"
        return json.dumps(value, ensure_ascii=False)


def variable(*names: str) -> str:
    """The environment variable of a field, or of a model's field: OPEN_LLM_LLAMA_TOP_K."""
    words = "_".join(names).upper()
    return "OPEN_LLM_" + words.replace("-", "_").replace(".", "_")


@cache
def facts_of(model: type[BaseModel]) -> dict[str, FieldFacts]:
    """The fields of `model` by name, in the order they were declared, parents' first."""
    return {name: _facts(name, info) for name, info in model.model_fields.items()}


def decode(facts: FieldFacts, text: str) -> Any:
    """A value given as text. Lists: a JSON array or words between commas. `none`: no value."""
    if facts.optional and facts.kind != "text" and text.strip().lower() == "none":
        return None
    if facts.kind == "list":
        return _decode_list(text)
    return text


def _decode_list(text: str) -> Any:
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return (text,)  # a stop text may well begin with a bracket
    if "," not in text:
        return (text,)
    # "a, b" is two words; a word of blanks alone, such as a line break, is meant
    return tuple(word.strip() or word for word in text.split(",") if word) or (text,)


def _facts(name: str, info: Any) -> FieldFacts:
    annotation, optional = _without_none(info.annotation)
    extra = info.json_schema_extra or {}
    kind, choices = _kind(annotation)
    return FieldFacts(
        name=name,
        kind=kind,
        optional=optional,
        choices=choices,
        default=info.get_default(call_default_factory=True),
        description=info.description or "",
        is_path=bool(extra.get("path")),
        is_text_or_path=bool(extra.get("text_or_path")),
        is_secret=bool(extra.get("secret")),
    )


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    members = [member for member in get_args(annotation) if member is not type(None)]
    inner = members[0] if len(members) == 1 else str
    return _without_none(inner)[0], len(members) < len(get_args(annotation))


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...]]:
    origin = get_origin(annotation)
    if origin is Literal:
        return "choice", tuple(map(str, get_args(annotation)))
    if origin in (tuple, list, set, frozenset):
        return "list", ()
    simple: dict[Any, Kind] = {int: "integer", float: "number", bool: "boolean"}
    return simple.get(annotation, "text"), ()
