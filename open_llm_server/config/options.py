"""Click options made from pydantic models: names, types and help; never a value.

The options carry neither defaults nor environment variables: `merge` alone knows those, so the
command line and Python cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from ..registry import Registry
from .fields import FieldFacts, decode, facts_of
from .schema import Generation, Load, ModelConfig, ServerConfig

GENERATION = "Generation"
LOADING = "Loading"
SERVER = "Server"
GENERAL = "General"

_METAVARS = {"integer": "INTEGER", "number": "NUMBER", "text": "TEXT", "list": "TEXT"}
_ABOUT = (
    "Every option can also be set as OPEN_LLM_<OPTION> in the environment, for one model or "
    "family as OPEN_LLM_<MODEL>_<OPTION>, in a YAML file, or by --set MODEL.OPTION=VALUE. "
    "Option names may be written with underscores too."
)


class FieldOption(click.Option):
    """The option of one configuration field; `section` is its heading in the help."""

    def __init__(self, facts: FieldFacts, section: str) -> None:
        self.facts = facts
        self.section = section
        kind: Any = click.Choice(facts.choices) if facts.choices else click.STRING
        boolean = facts.kind == "boolean"
        super().__init__(
            [facts.name, *_spellings(facts, boolean=boolean)],
            type=None if boolean else kind,
            metavar=None if boolean or facts.choices else _metavar(facts),
            multiple=facts.kind == "list",
            is_flag=boolean,
            default=None,
            help=_help(facts),
        )

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return shorten(super().get_help_record(ctx))


class FieldCommand(click.Command):
    """A command that takes the options of the families its arguments name, with a help in
    sections."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {option.name for option in self.params}
        foreign = _foreign_families(args)
        self.params = [
            *self.params,
            *(option for option in family_options(foreign) if option.name not in known),
        ]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {GENERAL: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", GENERAL), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text(_ABOUT)


def model_options() -> list[click.Option]:
    """Options of the fields that all families have."""
    generation = _options(facts_of(Generation).values(), GENERATION)
    loading = [facts for facts in facts_of(Load).values() if facts.name != "device"]
    return [*generation, *_options(loading, LOADING)]


def server_options() -> list[click.Option]:
    """Options of the server's fields."""
    return _options(facts_of(ServerConfig).values(), SERVER)


def start_options() -> list[click.Option]:
    """All options that say what is served and how."""
    families = family_options(Registry.own_names())
    return [*source_options(), *model_options(), *server_options(), *families]


def source_options() -> list[click.Option]:
    """Where further values come from, and where models go."""
    device = click.Option(
        ["devices", "--device"],
        multiple=True,
        metavar="[MODEL:]DEVICE",
        help="Where models compute, as cpu, gpu:0, gpu:0+1, mps, auto; for one model as "
        "llama:gpu:0. Repeatable, or joined by commas.  [env: OPEN_LLM_DEVICE; default: auto]",
    )
    sets = click.Option(
        ["sets", "--set"],
        multiple=True,
        metavar="MODEL.OPTION=VALUE",
        help="An option for one model or family only. Repeatable.",
    )
    configuration = click.Option(
        ["configuration", "--configuration"],
        metavar="PATH",
        help="YAML file with further values.  [env: OPEN_LLM_CONFIGURATION]",
    )
    return [configuration, sets, device]


def family_options(names: Iterable[str]) -> list[click.Option]:
    """Options of the fields that families `names` have beyond everybody's."""
    found: dict[str, FieldFacts] = {}
    owners: dict[str, list[str]] = {}
    for name in names:
        for field, facts in facts_of(Registry.get(name).Config).items():
            if field not in ModelConfig.model_fields:
                found.setdefault(field, facts)
                owners.setdefault(field, []).append(name)
    return [FieldOption(facts, _families(owners[field])) for field, facts in found.items()]


def given_flags(ctx: click.Context) -> dict[str, Any]:
    """The fields that were given on the command line, as `merge.resolve` takes them."""
    given: dict[str, Any] = {}
    for option in ctx.command.params:
        if not isinstance(option, FieldOption) or option.name is None:
            continue
        if ctx.get_parameter_source(option.name) is not ParameterSource.COMMANDLINE:
            continue
        value = ctx.params[option.name]
        if isinstance(value, str):
            value = decode(option.facts, value)
        given[option.name] = value
    return given


def shorten(record: tuple[str, str] | None) -> tuple[str, str] | None:
    """A help line without the spellings that only differ in their underscores."""
    if record is None:
        return None
    names, text = record
    kept = [name for name in names.replace(" / ", ", ").split(", ") if "_" not in name.split()[0]]
    metavar = names.rpartition(" ")[2] if " " in names.rpartition(", ")[2] else ""
    spelled = ", ".join(kept)
    if metavar and not spelled.endswith(metavar):
        spelled = f"{spelled} {metavar}"
    return spelled, text


def _options(facts: Iterable[FieldFacts], section: str) -> list[click.Option]:
    return [FieldOption(each, section) for each in facts]


def _families(names: Sequence[str]) -> str:
    return f"Family {names[0]}" if len(names) == 1 else f"Families {', '.join(names)}"


def _spellings(facts: FieldFacts, *, boolean: bool) -> list[str]:
    words = list(dict.fromkeys((facts.name.replace("_", "-"), facts.name)))
    return [f"--{word}/--no-{word}" if boolean else f"--{word}" for word in words]


def _metavar(facts: FieldFacts) -> str:
    return "PATH" if facts.is_path else _METAVARS[facts.kind]


def _help(facts: FieldFacts) -> str:
    default = facts.default
    if facts.is_secret or default in (None, (), ""):
        return f"{facts.description}  [env: {facts.variable}]"
    shown = str(default).lower() if isinstance(default, bool) else default
    return f"{facts.description}  [env: {facts.variable}; default: {shown}]"


def _foreign_families(args: Sequence[str]) -> list[str]:
    """Families of other packages that the arguments mention; only those are imported."""
    words = {
        word
        for argument in args
        for part in argument.split(",")
        for word in (part.partition("@")[0].rpartition("=")[2], part.partition(".")[0])
    }
    own: Mapping[str, None] = dict.fromkeys(Registry.own_names())
    return [name for name in Registry.names() if name in words and name not in own]
