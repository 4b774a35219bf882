"""The command `build`: makes a Bento for chosen models, and says what to do with it.

Owns words; `bento_build` does the work, and is imported when it runs.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from .config import options

if TYPE_CHECKING:
    from .bento_build import Built
    from .config.resolved import Resolved

_GPUS = tuple(map(str, range(64)))
"""More than any machine has: which of them there are, the one that serves will say."""
_SHOWN = 40


def command(summary: str) -> click.Command:
    """The command; `summary` is its line in the list of commands."""
    return options.FieldCommand(
        "build",
        callback=_run,
        params=[
            click.Argument(["models"], nargs=-1, metavar="MODELS..."),
            click.Option(
                ["--with-weights/--without-weights"],
                default=False,
                help="Whether weights travel with the Bento, or are imported where it is served. "
                "The built-in ones always travel.  [default: without]",
            ),
            click.Option(["--name"], metavar="NAME", help="The Bento's name.  [open-llm-server]"),
            click.Option(
                ["--tag"], metavar="VERSION", help="Its version; default: a new one each time."
            ),
            click.Option(
                ["--extra-index-url"],
                metavar="URL",
                help="A package index to ask first when the Bento becomes an image, such as one "
                "with torch for CPUs.",
            ),
            click.Option(["as_json", "--json"], is_flag=True, help="For machines."),
            *options.start_options(),
        ],
        short_help=summary,
        help="Make a Bento that serves MODELS with `bentoml serve`, also on other machines.\n\n"
        "MODELS are named as for `start`, and take the same options: what is set goes into the "
        "Bento, but for keys and for what `bentoml serve` has options of its own for. Where the "
        "Bento is served, variables OPEN_LLM_* beat what is in it.",
        no_args_is_help=False,
    )


def _run(
    models: tuple[str, ...],
    *,
    with_weights: bool,
    name: str | None,
    tag: str | None,
    extra_index_url: str | None,
    as_json: bool,
    **_: Any,
) -> None:
    from .bento_build import NAME, build
    from .cli_progress import shown

    with _tidy_end():
        built = build(
            _resolve(models),
            with_weights=with_weights,
            name=NAME if name is None else name,
            version=tag,
            extra_index_url=extra_index_url,
            show=shown,
        )
    click.echo(json.dumps(_facts(built), indent=2) if as_json else _words(built))


@contextmanager
def _tidy_end() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does, so that nothing half done stays."""

    def leave(number: int, frame: FrameType | None) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        sys.exit(128 + number)  # as shells have it

    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    ours = [one for one, handler in before.items() if handler is signal.SIG_DFL]
    for one in ours:
        signal.signal(one, leave)
    try:
        yield
    finally:
        for one in ours:
            signal.signal(one, signal.SIG_DFL)


def _resolve(models: tuple[str, ...]) -> Resolved:
    """What `start` would serve, on a machine that has every device: it is not this one."""
    from .config.machine import Machine, usable_cores
    from .config.merge import resolve

    ctx = click.get_current_context()
    return resolve(
        models,
        flags=options.given_flags(ctx),
        sets=ctx.params["sets"],
        devices=ctx.params["devices"],
        configuration=ctx.params["configuration"],
        door="flag",
        machine=Machine(cores=usable_cores(), gpus=_GPUS, mps=True),
    )


def _commands(tag: str) -> dict[str, str]:
    return {
        "serve": f"bentoml serve {tag} --host 127.0.0.1 --api-workers 1",
        # BentoML takes a relative path for one from the root.
        "export": f'bentoml export {tag} "$PWD/{tag.replace(":", "-")}.tar"',
        "containerize": f"bentoml containerize {tag}",
    }


def _words(built: Built) -> str:
    from .cli_figures import size

    total = sum(entry.manifest.bytes for entry in built.weights)
    lines = [
        f"built {built.tag}: {size(built.bytes)}"
        + (f", and {size(total)} of weights that travel with it" if total else ""),
        f"  folder:   {built.folder}",
        f"  models:   {', '.join(model.name for model in built.models)}",
    ]
    for section, values in built.settings.sections.items():
        shown = ", ".join(f"{name}={_short(value)}" for name, value in values.items())
        lines.append(f"  settings: {section}: {shown}")
    lines += [f"  left out: {line}" for line in built.settings.left_out]
    lines += [
        f"  not in it: {model.name}'s weights, {model.source}; imported where it is served"
        for model in built.models
        if model.source
    ]
    lines += [f"  not in it: {package}; it must be installed there" for package in built.plugins]
    commands = _commands(built.tag)
    lines += [
        f"serve it:        {commands['serve']}",
        f"export it:       {commands['export']}  (there: bentoml import /PATH/TO/FILE)",
        f"containerize it: {commands['containerize']}  (needs Docker)",
    ]
    if built.torch_unsaid:
        lines.append(
            "an image of it gets the torch of the index: on Linux usually the one for GPUs, of "
            "several GB; --extra-index-url names an index with the one for CPUs"
        )
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _facts(built: Built) -> dict[str, Any]:
    """Sizes in bytes."""
    return {
        "tag": built.tag,
        "folder": str(built.folder),
        "bytes": built.bytes,
        "models": [model.model_dump() for model in built.models],
        "weights": [
            {"tag": str(entry.tag), "bytes": entry.manifest.bytes} for entry in built.weights
        ],
        "settings": built.settings.sections,
        "left_out": list(built.settings.left_out),
        "packages": list(built.plugins),
        "commands": _commands(built.tag),
    }
