"""The command `models`: what can be started by name, and what was imported.

Owns words and questions; `store` does the work, and is imported when a command runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_figures import printable, size
from .cli_progress import shown
from .errors import ConfigurationError, WeightsError

if TYPE_CHECKING:
    from .config.cards import Card
    from .store.manifest import Entry
    from .store.remove import Leftover

NOTHING_YET = "nothing is imported yet; `open-llm-server import NAME` brings a model here"
_NOT_DONE = 1


class _Group(click.Group):
    """Complains about unknown commands in our words."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            from .config.words import suggest

            ctx.fail(f"there is no command 'models {args[0]}'{suggest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


def group(summary: str) -> click.Group:
    """The command with its subcommands; `summary` is its line in the list of commands."""
    return _Group(
        "models",
        callback=_bare,
        invoke_without_command=True,
        params=[_json()],
        short_help=summary,
        help="List the families and models that can be started by name.\n\n"
        "The commands below are about the models that were imported to this machine, into "
        "BENTOML_HOME. A TAG is NAME:VERSION as `models list --local` shows it; NAME alone is "
        "enough where there is one version.",
        commands=[_list(), _show(), _rm(), _prune(), _verify()],
    )


def _list() -> click.Command:
    local = click.Option(["--local"], is_flag=True, help="List the imported models instead.")
    return click.Command(
        "list",
        callback=_run_list,
        params=[local, _json()],
        short_help="List what can be started, or what was imported.",
        help="List the models that can be started by name, or those that were imported.",
    )


def _show() -> click.Command:
    return click.Command(
        "show",
        callback=_run_show,
        params=[click.Argument(["name"], metavar="NAME|TAG"), _json()],
        short_help="Show what is known of one model.",
        help="Show what is known of one model: its card, and each of its imports with files, "
        "hashes, licence and what quantising cost.",
    )


def _rm() -> click.Command:
    return click.Command(
        "rm",
        callback=_run_rm,
        params=[click.Argument(["tags"], nargs=-1, required=True, metavar="TAG..."), _yes()],
        help="Remove imported models. A server that has one loaded keeps what it has.",
    )


def _prune() -> click.Command:
    only = click.Option(["--dry-run"], is_flag=True, help="Only say what would be removed.")
    return click.Command(
        "prune",
        callback=_run_prune,
        params=[_yes(), only],
        short_help="Remove what nobody needs any more.",
        help="Remove imports that were broken off, or that a newer one of the same replaced.",
    )


def _verify() -> click.Command:
    return click.Command(
        "verify",
        callback=_run_verify,
        params=[click.Argument(["tags"], nargs=-1, metavar="[TAG]...")],
        short_help="Check the files of imported models.",
        help="Read every byte of imported models, of all or of those named, and say whether they "
        "are what was imported. Leaves with 1 where they are not.",
    )


def _json() -> click.Option:
    return click.Option(["as_json", "--json"], is_flag=True, help="For machines.")


def _yes() -> click.Option:
    return click.Option(["--yes"], is_flag=True, help="Do not ask first.")


@click.pass_context
def _bare(ctx: click.Context, *, as_json: bool) -> None:
    if ctx.invoked_subcommand is None:
        _run_list(local=False, as_json=as_json)
    elif as_json:
        ctx.fail(f"--json goes behind the command: models {ctx.invoked_subcommand} --json")


def _run_list(*, local: bool, as_json: bool) -> None:
    if not local:
        from .config import report

        click.echo(_pretty(report.models_json()) if as_json else report.models_text())
        return
    from . import cli_entries
    from .store import catalog

    entries, broken = catalog.entries(), [cli_entries.tag_of(path) for path in catalog.broken()]
    newer = [cli_entries.tag_of(path) for path in catalog.newer()]
    if as_json:
        models = [cli_entries.as_json(entry) for entry in entries]
        click.echo(_pretty({"models": models, "damaged": broken, "newer": newer}))
        return
    click.echo(cli_entries.table(entries) if entries else NOTHING_YET)
    for tag in broken:
        click.echo(f"damaged: {tag}; `open-llm-server models rm {tag}` removes it")
    for tag in newer:
        click.echo(f"of a newer release of open-llm-server: {tag}; update this one to use it")


def _run_show(name: str, *, as_json: bool) -> None:
    from . import cli_entries
    from .config.cards import cards
    from .store import catalog

    card = cards().get(name)
    entries = _imports_of(card) if card else []
    if card is None or any(entry.tag.name == name for entry in catalog.entries()):
        entries += [_named(name)]
    if as_json:
        facts = card.model_dump(mode="json") if card else None
        imports = [cli_entries.as_json(entry) for entry in entries]
        click.echo(_pretty({"card": facts, "imports": imports}))
        return
    parts = [_card_words(card, entries)] if card else []
    click.echo("\n\n".join([*parts, *(cli_entries.details(entry) for entry in entries)]))


def _run_rm(tags: tuple[str, ...], *, yes: bool) -> int:
    from . import cli_entries
    from .store.remove import remove

    chosen = {str(_folder(what)): what for what in (_only(tag) for tag in tags)}
    words = [
        f"{cli_entries.tag_of(what)} (damaged)"
        if isinstance(what, Path)
        else f"{what.manifest.tag} ({size(what.manifest.bytes)})"
        for what in chosen.values()
    ]
    if not _agreed(f"remove {', '.join(words)}?", yes=yes):
        return _NOT_DONE
    for what, said in zip(chosen.values(), words, strict=True):
        remove(what)
        click.echo(f"removed {said}")
    return 0


def _run_prune(*, yes: bool, dry_run: bool) -> int:
    from .store import remove

    found = remove.leftovers()
    if not found:
        click.echo("there is nothing to remove")
        return 0
    for leftover in found:
        click.echo(f"{size(leftover.bytes):>7}  {_leftover_words(leftover)}")
    if dry_run:
        click.echo(f"{_freed(found)} would be freed")
        return 0
    if not _agreed(f"remove all of this, {_freed(found)}?", yes=yes):
        return _NOT_DONE
    click.echo(f"{_freed(remove.prune(found))} freed")
    return 0


def _run_verify(tags: tuple[str, ...]) -> int:
    from . import cli_entries
    from .store import catalog
    from .store.progress import Meter
    from .store.verify import verify

    entries = [_named(tag) for tag in dict.fromkeys(tags)] if tags else catalog.entries()
    broken = [] if tags else [cli_entries.tag_of(path) for path in catalog.broken()]
    if not entries and not broken:
        click.echo(NOTHING_YET)
    faulty = bool(broken)
    for tag in broken:
        click.echo(f"{tag}: its manifest is damaged; `open-llm-server models rm {tag}` removes it")
    for entry in entries:
        with shown() as listener:
            faults = verify(entry, Meter(listener))
        faulty = faulty or bool(faults)
        if not faults:
            known = entry.manifest
            click.echo(f"{known.tag}: unchanged, {size(known.bytes)}")
        for fault in faults:
            click.echo(f"{entry.manifest.tag}: {printable(fault)}")
    return _NOT_DONE if faulty else 0


def _imports_of(card: Card) -> list[Entry]:
    """What was imported from where the card says, newest first."""
    from .config.models import Source
    from .store import catalog

    if card.source is None:
        return []
    source = Source.parse(card.source)
    wanted = (source.kind, source.location, source.file)
    return [
        entry
        for entry in catalog.entries()
        if (entry.manifest.kind, entry.manifest.location, entry.manifest.file) == wanted
    ]


def _card_words(card: Card, entries: Sequence[Entry]) -> str:
    from .config.models import Source

    facts = {
        "family": card.family,
        "licence": card.licence or "of its weights",
        "parameters": card.parameters,
        "context": f"{card.context_length} tokens" if card.context_length else None,
        "source": str(Source.parse(card.source)) if card.source else None,
        "weights": card.download,
    }
    given = {name: value for name, value in facts.items() if value}
    width = max(map(len, given))
    lines = [f"  {name:{width}}  {value}" for name, value in given.items()]
    if card.source and not card.source.startswith("builtin:"):
        there = ", ".join(entry.manifest.tag for entry in entries)
        how = f"not yet: open-llm-server import {card.name}"
        lines.append(f"  {'imported':{width}}  {there or how}")
    return "\n".join([f"{card.name}: {card.description}", *lines])


def _named(text: str) -> Entry:
    """The imported model that `text` means, or may have meant."""
    from .config.cards import cards
    from .config.words import nearest
    from .store import catalog

    try:
        return catalog.get(text)
    except WeightsError as error:
        near, name = nearest(text, cards()), text.partition(":")[0]
        if near is None or any(
            folder.parent.name == name for folder in (*catalog.broken(), *catalog.newer())
        ):
            raise
        raise WeightsError(
            f"{text} is neither in the store nor a card; did you mean {near!r}?"
        ) from error


def _only(text: str) -> Entry | Path:
    """What `text` names and nothing else does: removing is no place for guesses."""
    from .cli_entries import tag_of
    from .store import catalog

    name, colon, _ = text.partition(":")
    damaged = {tag_of(folder): folder for folder in catalog.broken(name)}
    if text in damaged:
        return damaged[text]
    versions = [] if colon else [*damaged, *(str(entry.tag) for entry in catalog.entries(name))]
    if len(versions) > 1:
        raise ConfigurationError(
            f"{text} has several versions; name those to remove: {', '.join(versions)}"
        )
    return damaged[versions[0]] if damaged and versions else catalog.get(text)


def _folder(what: Entry | Path) -> Path:
    return what if isinstance(what, Path) else what.folder


def _agreed(question: str, *, yes: bool) -> bool:
    """Asks on a terminal; where nobody can answer, only --yes will do."""
    if yes:
        return True
    if not sys.stdin or not sys.stdin.isatty():
        raise ConfigurationError(f"{question} nobody can answer here; add --yes to agree")
    if click.confirm(question, err=True):
        return True
    click.echo("nothing was removed", err=True)
    return False


def _leftover_words(leftover: Leftover) -> str:
    if leftover.kind == "replaced":
        return f"{leftover.tag}, which a newer import replaced"
    if leftover.kind == "unfinished":
        return f"{leftover.path.name}, an import that was broken off"
    return f"{leftover.path.name}, of something that was removed"


def _freed(leftovers: Sequence[Leftover]) -> str:
    return size(sum(leftover.bytes for leftover in leftovers))


def _pretty(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=2)
