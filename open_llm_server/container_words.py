"""What runs inside a container: `start` with the caller's models, flags and variables.

Owns that these words mean inside what they mean here: paths are made absolute, secrets become
variables, and what only concerns this machine stays here. Reads no file's content.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .config.fields import FieldFacts, decode, variable
from .config.layers import absolute, named_file
from .config.merge import Draft, Drafts
from .config.models import ModelSpec
from .config.options import FieldOption
from .config.vocabulary import DEVICE, PREFIX, RESERVED_VARIABLES, SERVER_FACTS, Meaning
from .container_doors import FIELDS
from .errors import ConfigurationError

_STAY = {*RESERVED_VARIABLES, *map(variable, FIELDS)} - {DEVICE}
"""Variables that are heeded here, and told by flags where they concern the server inside."""


@dataclass(frozen=True)
class Variables:
    """As in `container.ContainerRun`."""

    passed: tuple[str, ...]
    open: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)


def start_words(ctx: click.Context, drafts: Drafts, doors: Sequence[str]) -> tuple[str, ...]:
    """The command: one word for each flag, so that no value can be taken for a flag."""
    words = [*_flags(ctx), *doors]
    if drafts.document.path:
        words.append(f"--configuration={drafts.document.path}")
    words += [f"--set={_set(text, drafts)}" for text in ctx.params["sets"]]
    words += [f"--device={text}" for text in ctx.params["devices"]]
    return ("start", *map(_model, drafts.models), *words)


def start_variables(ctx: click.Context, drafts: Drafts, environ: Mapping[str, str]) -> Variables:
    """The variables of `environ` that `start` heeds, and the flags that nobody should read."""
    present = {
        name: text
        for name, text in environ.items()
        if name.startswith(PREFIX) and name not in _STAY and text
    }
    meanings = drafts.vocabulary.variables(list(present))
    secrets = dict(_secrets(ctx))
    shown: dict[str, str] = {}
    for name in sorted(present.keys() - secrets.keys() - {DEVICE}):
        text = _settled_text(_facts(meanings[name], drafts), present[name])
        if text != present[name]:
            shown[name] = text
    passed = tuple(sorted({*present, *secrets} - shown.keys()))
    return Variables(passed, shown, secrets)


def _given(ctx: click.Context) -> Iterator[tuple[FieldFacts, Any]]:
    """The fields that were given as flags, as they were given."""
    for option in ctx.command.params:
        if not isinstance(option, FieldOption) or option.name is None:
            continue
        if ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            yield option.facts, ctx.params[option.name]


def _flags(ctx: click.Context) -> Iterator[str]:
    for facts, value in _given(ctx):
        if facts.is_secret or facts.name in FIELDS:
            continue
        if isinstance(value, bool):
            yield facts.flag if value else f"--no-{facts.flag[2:]}"
            continue
        for text in [value] if isinstance(value, str) else value:
            yield f"{facts.flag}={_settled(facts, text)}"


def _secrets(ctx: click.Context) -> Iterator[tuple[str, str]]:
    for facts, value in _given(ctx):
        if facts.is_secret and value:
            yield facts.variable, value if isinstance(value, str) else json.dumps(value)


def _set(text: str, drafts: Drafts) -> str:
    key, _, value = text.partition("=")
    name, _, setting = key.strip().rpartition(".")
    facts = drafts.vocabulary.fields_of(name)[setting.replace("-", "_")]
    return f"{key}={_settled_text(facts, value)}"


def _settled_text(facts: FieldFacts, text: str) -> str:
    """A value given as text, with its paths made absolute; untouched where there are none."""
    if not (facts.is_path or facts.is_text_or_path):
        return text
    value = decode(facts, text)
    if isinstance(value, str):
        return _settled(facts, value)
    if not isinstance(value, (list, tuple)):
        return text
    settled = [_settled(facts, str(item)) for item in value]
    return text if settled == list(value) else json.dumps(settled)


def _settled(facts: FieldFacts, text: str) -> str:
    base = Path.cwd()
    if facts.is_path:
        return str(absolute(text, base))
    path = named_file(text, base) if facts.is_text_or_path else None
    return str(path) if path else text


def _facts(meaning: Meaning, drafts: Drafts) -> FieldFacts:
    if meaning.name is not None:
        return drafts.vocabulary.fields_of(meaning.name)[meaning.field]
    if meaning.field in SERVER_FACTS:
        return SERVER_FACTS[meaning.field]
    return drafts.vocabulary.shared_fields(thorough=True)[meaning.field]


def _model(draft: Draft) -> str:
    """The model with its path made absolute, in the grammar of `config.models`."""
    spec = draft.spec
    if spec.source is None or spec.source.kind != "path":
        return _escaped(str(spec))
    spec = spec.model_copy(update={"source": draft.source})
    if _reads_back(spec):
        return _escaped(str(spec))
    raise ConfigurationError(
        f"{spec.name}: {draft.source and draft.source.location!r} cannot be named from another "
        "folder, because of the '#' or the blanks in it; rename the folder that has them"
    )


def _reads_back(spec: ModelSpec) -> bool:
    try:
        return ModelSpec.parse(str(spec)) == spec
    except ConfigurationError:
        return False


def _escaped(word: str) -> str:
    return word.replace(",", "\\,")
