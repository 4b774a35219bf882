"""Every source of configuration, merged in one order, for the command line and Python alike.

Highest first: `--set`, `--device`, flags or keywords, OPEN_LLM_<MODEL>_<FIELD>,
OPEN_LLM_<FIELD>, the YAML section of the model, YAML `defaults:`, the card, the field's default.
Where a model goes by several names (alias, card, family) the more special name wins.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigurationError
from ..registry import Registry
from .cards import Card
from .devices import gpu_ids, share_cores
from .document import Document
from .environment import Environment, device_layer
from .fields import FieldFacts, decode, facts_of
from .layers import Layer, Merged, merge_layers
from .machine import Machine, detect
from .models import ModelSpec, Source, parse_models
from .placement import Placement, gpu_indices, parse_placements
from .resolved import ModelPlan, Resolved
from .schema import ServerConfig
from .stored import look_up
from .vocabulary import CONFIGURATION, MODELS, SERVER_FACTS, Vocabulary
from .weights import find_weights
from .words import suggest

Door = Literal["flag", "keyword"]


@dataclass(frozen=True)
class _Asked:
    """What the person at the door said, checked against the vocabulary."""

    flags: Mapping[str, Any]
    sets: Sequence[tuple[str, str, str]]
    """(model or family, field, text), the last one first."""
    placements: Sequence[Placement]
    door: Door

    def origin(self, field: str) -> str:
        return f"flag --{field.replace('_', '-')}" if self.door == "flag" else f"keyword {field}"


@dataclass(frozen=True)
class Draft:
    """One model, merged, but neither looked up in the store nor placed on a device."""

    spec: ModelSpec
    family: str
    card: Card | None
    source: Source | None
    merged: Merged


@dataclass(frozen=True)
class Drafts:
    """A server and its models as far as they are the same on every machine."""

    server: Merged
    models: tuple[Draft, ...]
    vocabulary: Vocabulary
    document: Document


def resolve(
    models: Sequence[str] | str = (),
    *,
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    devices: Sequence[str] | str = (),
    environ: Mapping[str, str] | None = None,
    configuration: str | os.PathLike[str] | None = None,
    door: Door = "keyword",
    machine: Machine | None = None,
    need_models: bool = True,
) -> Resolved:
    """The whole configuration of a server that serves `models`.

    `flags` are fields by name, `sets` texts such as `llama.top_k=3`, `devices` placements.
    Without `models` those of the YAML file are taken, else those of OPEN_LLM_MODELS.
    Raises ConfigurationError (a ValueError) or WeightsError.
    """
    environ = os.environ if environ is None else environ
    drafts = draft(
        models,
        flags=flags,
        sets=sets,
        devices=devices,
        environ=environ,
        configuration=configuration,
        door=door,
        need_models=need_models,
    )
    return Resolved(
        server=ServerConfig.model_validate(drafts.server.values),
        origins=drafts.server.origins,
        models=_place(drafts.models, environ, machine),
    )


def draft(
    models: Sequence[str] | str,
    *,
    flags: Mapping[str, Any] | None,
    sets: Sequence[str],
    devices: Sequence[str] | str,
    environ: Mapping[str, str],
    configuration: str | os.PathLike[str] | None,
    door: Door,
    need_models: bool,
) -> Drafts:
    """The first half of `resolve`, with the same arguments and errors: every source merged, every
    name, value and path checked. What the store and the machine have is not."""
    environment = Environment(environ)
    document = _document(environment, configuration)
    specs, base = _specs(models, document, environment)
    if need_models and not specs:
        raise ConfigurationError(_no_models(), param="models")
    vocabulary = Vocabulary([*parse_models(document.models), *specs])
    asked = _ask(flags or {}, sets, devices, door, specs, vocabulary)
    environment.check(vocabulary)
    document.check(vocabulary)
    server = _merge_server(asked, environment, document)
    drafts = [_draft(spec, asked, environment, document, vocabulary, base=base) for spec in specs]
    return Drafts(server, tuple(drafts), vocabulary, document)


def resolve_model(spec: str, /, **keywords: Any) -> ModelPlan:
    """One model, as `resolve` makes it: for a runner in somebody else's service.

    `keywords` are fields of the model; `device` is one of them.
    """
    environment = Environment(os.environ)
    document = _document(environment, None)
    model = ModelSpec.parse(spec)
    vocabulary = Vocabulary([*parse_models(document.models), model])
    for name in keywords:
        if name in SERVER_FACTS:
            raise ConfigurationError(f"keyword {name}: is a setting of the server, not of a model")
    asked = _ask(keywords, (), (), "keyword", [model], vocabulary)
    environment.check(vocabulary)
    document.check(vocabulary)
    drafted = _draft(model, asked, environment, document, vocabulary, base=Path.cwd())
    return _place([drafted], os.environ, None)[0]


def _document(environment: Environment, configuration: str | os.PathLike[str] | None) -> Document:
    location = environment.get(CONFIGURATION) if configuration is None else str(configuration)
    return Document.read(location)


def _specs(
    models: Sequence[str] | str, document: Document, environment: Environment
) -> tuple[tuple[ModelSpec, ...], Path]:
    """The models to serve, and the folder that their relative paths start at."""
    named = parse_models([models] if isinstance(models, str) else models)
    if named:
        return named, Path.cwd()
    listed = parse_models(document.models)
    if listed:
        return listed, document.folder
    return parse_models([environment.get(MODELS) or ""]), Path.cwd()


def _no_models() -> str:
    return (
        "no model is named: say which ones to serve, for example `start tiny`; or list them in "
        f"`models:` of the YAML configuration, or in {MODELS}"
        f"{suggest('', Vocabulary().model_names)}"
    )


def _ask(
    flags: Mapping[str, Any],
    sets: Sequence[str],
    devices: Sequence[str] | str,
    door: Door,
    specs: Sequence[ModelSpec],
    vocabulary: Vocabulary,
) -> _Asked:
    flags = dict(flags)
    placements = [devices] if isinstance(devices, str) else list(devices)
    given = flags.pop("device", None)
    if given is not None:
        placements += [given] if isinstance(given, str) else list(given)
    asked = _Asked(
        flags=flags,
        sets=[_parse_set(text, specs, vocabulary) for text in reversed(sets)],
        placements=parse_placements(placements),
        door=door,
    )
    for name in flags:
        _check_flag(name, asked.origin(name), specs, vocabulary)
    for placement in asked.placements:
        if placement.name is not None:
            _check_started(placement.name, asked.origin("device"), specs, vocabulary)
    return asked


def _check_flag(name: str, origin: str, specs: Sequence[ModelSpec], vocabulary: Vocabulary) -> None:
    if name in SERVER_FACTS or any(name in vocabulary.fields_of(spec.name) for spec in specs):
        return
    vocabulary.check_field(name, {*SERVER_FACTS, *vocabulary.shared_fields(thorough=True)}, origin)
    families = ", ".join(vocabulary.families_with(name)) or "no installed family"
    raise ConfigurationError(
        f"{origin}: none of the models to start has this setting; it is one of {families}",
        param=name,
    )


def _check_started(
    name: str, where: str, specs: Sequence[ModelSpec], vocabulary: Vocabulary
) -> None:
    started = {word for spec in specs for word in _names(spec, vocabulary)}
    if name in started:
        return
    if name in vocabulary.model_names:
        serving = ", ".join(spec.name for spec in specs)
        raise ConfigurationError(f"{where}: {name!r} is not being started, only {serving}")
    vocabulary.check_name(name, where)


def _parse_set(
    text: str, specs: Sequence[ModelSpec], vocabulary: Vocabulary
) -> tuple[str, str, str]:
    key, equals, value = text.partition("=")
    name, dot, field = key.strip().rpartition(".")
    if not equals or not dot:
        raise ConfigurationError(f"--set {text}: want MODEL.SETTING=VALUE, as llama.top_k=3")
    field = field.replace("-", "_")
    _check_started(name, f"--set {key}", specs, vocabulary)
    vocabulary.check_field(field, vocabulary.fields_of(name), f"--set {key}")
    return name, field, value


def _names(spec: ModelSpec, vocabulary: Vocabulary) -> tuple[str, ...]:
    """What a model goes by, the most special name first: its own, its card's, its family's."""
    return tuple(dict.fromkeys((spec.name, spec.family, vocabulary.family_of(spec.name))))


def _merge_server(asked: _Asked, environment: Environment, document: Document) -> Merged:
    layers = (
        _flag_layer(asked, SERVER_FACTS),
        environment.server_layer(),
        document.server_layer(),
    )
    return merge_layers(ServerConfig, layers)


def _draft(
    spec: ModelSpec,
    asked: _Asked,
    environment: Environment,
    document: Document,
    vocabulary: Vocabulary,
    *,
    base: Path,
) -> Draft:
    family = vocabulary.family_of(spec.name)
    names = _names(spec, vocabulary)
    config = Registry.get(family).Config
    fields = facts_of(config)
    card = vocabulary.card_of(spec.name)
    layers = (
        *_set_layers(asked, names, fields),
        device_layer(asked.placements, names, asked.origin("device")),
        _flag_layer(asked, fields),
        *environment.model_layers(names, fields),
        *document.model_layers(names, fields),
        _card_layer(card, fields),
    )
    merged = merge_layers(config, layers)
    source = find_weights(spec, Registry.get(family), card, base, merged.values)
    return Draft(spec, family, card, source, merged)


def _set_layers(
    asked: _Asked, names: Sequence[str], fields: Mapping[str, FieldFacts]
) -> list[Layer]:
    layers = []
    for name in names:
        for target, field, text in asked.sets:
            if target == name:
                origin = f"--set {target}.{field}"
                layers.append(Layer({field: decode(fields[field], text)}, {field: origin}))
    return layers


def _flag_layer(asked: _Asked, fields: Mapping[str, FieldFacts]) -> Layer:
    values = {name: value for name, value in asked.flags.items() if name in fields}
    return Layer(values, {name: asked.origin(name) for name in values})


def _card_layer(card: Card | None, fields: Mapping[str, FieldFacts]) -> Layer:
    if card is None:
        return Layer({}, {})
    for name in card.defaults:
        if name not in fields:
            raise ConfigurationError(
                f"card {card.name}: there is no setting {name!r}{suggest(name, fields)}"
            )
    return Layer(card.defaults, dict.fromkeys(card.defaults, f"card {card.name}"))


def _place(
    drafts: Sequence[Draft], environ: Mapping[str, str], machine: Machine | None
) -> tuple[ModelPlan, ...]:
    """Plans with devices checked against the machine, and its cores shared out."""
    if machine is None:
        wanted = any(gpu_indices(draft.merged.values["device"]) for draft in drafts)
        machine = detect(environ, gpus=wanted)
    asked = [(draft.merged.values["device"], draft.merged.values["threads"]) for draft in drafts]
    idle = frozenset(index for index, draft in enumerate(drafts) if draft.source is None)
    shares = share_cores(asked, machine.cores, idle=idle)
    return tuple(
        _plan(draft, machine, threads) for draft, threads in zip(drafts, shares, strict=True)
    )


def _plan(draft: Draft, machine: Machine, threads: int) -> ModelPlan:
    values, origins = draft.merged.values, dict(draft.merged.origins)
    kind = Registry.get(draft.family).weights_of(values)
    stored = look_up(draft.source, kind, draft.spec.name)
    device = values["device"]
    origin = f"{draft.spec.name}: {origins['device']}".removesuffix(":")
    gpus = gpu_ids(device, machine, origin=origin)
    if values["threads"] is None:
        origins["threads"] = f"{origins['threads']}, of {machine.cores} cores"
    return ModelPlan(
        name=draft.spec.name,
        family=draft.family,
        implementation=Registry.locate(draft.family),
        card=draft.card.name if draft.card else None,
        source=draft.source,
        stored=str(stored) if stored else None,
        config=values | {"threads": threads},
        device=device,
        gpus=gpus,
        threads=threads,
        origins=origins,
    )
