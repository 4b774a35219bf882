"""The command `import`: brings a model's weights into the store, and says how to start it.

Owns words and the terminal; `store.importing` does the work, and is imported when it runs.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import click

from .cli_figures import printable, size
from .cli_progress import shown

if TYPE_CHECKING:
    from .store.manifest import Entry
    from .store.progress import Listener, Progress

SCHEMES = ("q8_0", "q4_k_m", "int8")


def command(summary: str) -> click.Command:
    """The command; `summary` is its line in the list of commands."""
    return click.Command(
        "import",
        callback=_run,
        params=[
            click.Argument(["model"]),
            click.Option(
                ["--revision"],
                metavar="REVISION",
                help="A branch, tag or commit of a hub's model; default: its main branch.",
            ),
            click.Option(
                ["--quantize"],
                type=click.Choice(SCHEMES),
                help="Make the weights smaller: q8_0 or q4_k_m for GGUF files, int8 for "
                "checkpoints. What it costs in accuracy is measured and kept.",
            ),
            click.Option(
                ["--convert-pickles"],
                is_flag=True,
                help="Take pickled weights where there are no others, and convert them in a "
                "process without network.",
            ),
            click.Option(["as_json", "--json"], is_flag=True, help="For machines."),
        ],
        short_help=summary,
        help="Bring the weights of MODEL to this machine, check them, and keep them.\n\n"
        "MODEL is named as for `start`: NAME, FAMILY@SOURCE or ALIAS=FAMILY@SOURCE, where SOURCE "
        "is a path or a hub id, optionally with #FILE.gguf and :REVISION. What is here already "
        "is not fetched again, and an import that was broken off goes on where it ended. Weights "
        "go to BENTOML_HOME; HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are heeded. Progress goes "
        "to standard error, the result to standard output.",
    )


def _run(
    model: str, *, revision: str | None, quantize: str | None, convert_pickles: bool, as_json: bool
) -> None:
    from .config.models import parse_models
    from .errors import ConfigurationError
    from .store.importing import import_model

    specs = parse_models([model])
    if len(specs) != 1:
        raise ConfigurationError(
            f"import takes one model at a time, and {model!r} names {len(specs)}; a comma in a "
            "path is written \\,"
        )
    try:
        with shown() as listener:
            watch = _Watch(listener)
            entry = import_model(
                str(specs[0]),
                revision=revision,
                quantize=quantize,
                convert_pickles=convert_pickles,
                listener=watch.hear,
            )
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on from here", err=True)
        raise click.Abort from None
    new = watch.is_new(entry)
    start = f"open-llm-server start {shlex.quote(start_name(model, entry))}"
    if as_json:
        from .cli_entries import as_json as facts

        click.echo(json.dumps({"imported": new, "start": start, **facts(entry)}, indent=2))
    else:
        click.echo(_words(entry, start, new=new))


class _Watch:
    """Tells what an import has made from what was there, or was made by another meanwhile."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._phase = ""
        self._made = False
        self._before = _identities()

    def hear(self, progress: Progress) -> None:
        if self._phase == "waiting" != progress.phase:
            self._before = _identities()
        self._phase = progress.phase
        self._made = self._made or progress.phase == "finishing"
        self._listener(progress)

    def is_new(self, entry: Entry) -> bool:
        return self._made and _identity(entry) not in self._before


def _identities() -> set[tuple[str, int | None]]:
    from .store import catalog

    return {_identity(entry) for entry in catalog.entries()}


def _identity(entry: Entry) -> tuple[str, int | None]:
    """Another one where the folder was replaced; the same where its files were right already."""
    try:
        return str(entry.folder), entry.folder.stat().st_ino
    except OSError:  # somebody is removing it
        return str(entry.folder), None


def start_name(model: str, entry: Entry) -> str:
    """What `start` takes for `entry`, which was imported as `model`: the same where that finds it,
    else its tag."""
    from .config.merge import resolve_model
    from .config.models import Source, parse_models
    from .store import catalog

    [spec] = parse_models([model])
    if resolve_model(str(spec)).stored == str(entry.path):
        return model
    tag = entry.tag
    newest = catalog.get(tag.name).tag == tag
    source = Source.parse(f"store:{tag.name if newest else tag}")
    return str(spec.model_copy(update={"source": source}))


def _words(entry: Entry, start: str, *, new: bool) -> str:
    from .cli_entries import files_of, quantised_words

    known = entry.manifest
    size_words = f"{size(known.bytes)} in {files_of(entry)}"
    lines = [
        f"imported {known.tag}: {size_words}"
        if new
        else f"{known.tag} is here already: {size_words}",
        f"  folder:  {entry.folder}",
    ]
    if known.licence:
        lines.append(f"  licence: {printable(known.licence)}")
    if known.quantised:
        lines.append(f"  {quantised_words(known.quantised)}")
    return "\n".join([*lines, f"start it: {start}"])
