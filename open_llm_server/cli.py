"""The command line: words in, words out; the work is elsewhere.

Imports click alone until a command runs, so that `--help` is there at once.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from . import __version__
from .errors import OpenLLMError

if TYPE_CHECKING:
    from .config.resolved import Resolved

PROGRAM = "open-llm-server"
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_NO_OUTPUT = 74  # EX_IOERR of sysexits.h


def _start() -> click.Command:
    from .config import options

    return options.FieldCommand(
        "start",
        callback=_run_start,
        params=[
            click.Argument(["models"], nargs=-1, metavar="MODELS..."),
            *options.start_options(),
        ],
        short_help=_COMMANDS["start"][0],
        help="Serve MODELS over HTTP and gRPC, in processes of their own.\n\n"
        "A model is named as NAME, FAMILY@SOURCE or ALIAS=FAMILY@SOURCE; several are joined by "
        "commas. SOURCE is a path or a hub id, optionally with #FILE.gguf and :REVISION. "
        "See `open-llm-server models` for the names there are.",
        no_args_is_help=False,
    )


def _config() -> click.Command:
    from .config import options

    return options.FieldCommand(
        "config",
        callback=_run_config,
        params=[
            click.Argument(["models"], nargs=-1, metavar="[MODELS]..."),
            click.Option(["as_json", "--json"], is_flag=True, help="For machines."),
            click.Option(["--sample"], is_flag=True, help="Print a commented YAML file instead."),
            *options.start_options(),
        ],
        short_help=_COMMANDS["config"][0],
        help="Print every value that `start` would use, and where it comes from.\n\n"
        "Takes the same arguments as `start`. Keys and passwords are not shown.",
    )


def _models() -> click.Command:
    from . import cli_models

    return cli_models.group(_COMMANDS["models"][0])


def _import() -> click.Command:
    from . import cli_import

    return cli_import.command(_COMMANDS["import"][0])


def _fit() -> click.Command:
    from . import cli_fit

    return cli_fit.command(_COMMANDS["fit"][0], _resolve)


def _doctor() -> click.Command:
    from . import cli_doctor

    return cli_doctor.command(_COMMANDS["doctor"][0], _resolve)


def _perplexity() -> click.Command:
    from . import cli_perplexity

    return cli_perplexity.command(_COMMANDS["perplexity"][0], _resolve)


def _chat() -> click.Command:
    from . import cli_chat

    return cli_chat.command(_COMMANDS["chat"][0])


def _query() -> click.Command:
    from . import cli_query

    return cli_query.command(_COMMANDS["query"][0])


def _build() -> click.Command:
    from . import cli_build

    return cli_build.command(_COMMANDS["build"][0])


def _run_container() -> click.Command:
    from . import cli_container

    return cli_container.command(_COMMANDS["run-container"][0])


# Name -> (line in the help, what makes the command). A command is made when it is asked for.
_COMMANDS: dict[str, tuple[str, Callable[[], click.Command]]] = {
    "start": ("Serve models over HTTP and gRPC.", _start),
    "run-container": ("Serve models in a container.", _run_container),
    "chat": ("Talk to a model.", _chat),
    "query": ("Ask a running server one question.", _query),
    "config": ("Print every value and where it comes from.", _config),
    "models": ("List the models there are, and keep the imported ones.", _models),
    "import": ("Bring a model's weights to this machine.", _import),
    "build": ("Make a Bento of models, for `bentoml serve`.", _build),
    "fit": ("Say whether a model fits into memory.", _fit),
    "doctor": ("Check this machine, and say what would stop a start.", _doctor),
    "perplexity": ("Measure how well a model foretells a text.", _perplexity),
}


class LazyGroup(click.Group):
    """Commands that are imported when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _COMMANDS[cmd_name][1]() if cmd_name in _COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS:
            from .config.words import suggest

            ctx.fail(f"there is no command {args[0]!r}{suggest(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (line, _) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Serve many open language models from one machine."""


def _run_start(models: tuple[str, ...], **_: Any) -> int:
    resolved = _resolve(models)
    from . import supervisor

    return supervisor.run(resolved)


def _run_config(models: tuple[str, ...], *, as_json: bool, sample: bool, **_: Any) -> None:
    from .config import report

    if sample:
        click.echo(report.sample_yaml(), nl=False)
        return
    resolved = _resolve(models, need_models=False)
    if as_json:
        click.echo(json.dumps(report.config_json(resolved), indent=2))
    else:
        click.echo(report.config_text(resolved))


def _resolve(models: Sequence[str], *, need_models: bool = True) -> Resolved:
    from .config.merge import resolve
    from .config.options import given_flags

    ctx = click.get_current_context()
    return resolve(
        models,
        flags=given_flags(ctx),
        sets=ctx.params["sets"],
        devices=ctx.params["devices"],
        configuration=ctx.params["configuration"],
        door="flag",
        need_models=need_models,
    )


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script. Leaves with 0, 1 (cannot start), 2 (wrong words), 74 (no
    room for the output) or 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = cli.main(args=words, prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        _complain(_in_our_words(error))
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(_INTERRUPTED)
    except OpenLLMError as error:
        _complain(error.message.removeprefix("flag "))
        sys.exit(getattr(error, "exit_code", 1))
    except OSError as error:
        if not _is_of_output(error):
            raise
        _forget_output()
        _complain(f"cannot write the output: {error.strerror or error}; see where it goes to")
        sys.exit(_NO_OUTPUT)
    sys.exit(code)


def _is_of_output(error: OSError) -> bool:
    """Whether words for people could not be written: those are click's to write."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__") == click.utils.__name__


def _forget_output() -> None:
    """What is still to be written Python would try again at its end, and complain about."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _complain(message: str) -> None:
    """All errors look alike: one line."""
    click.echo(f"error: {' '.join(message.split())}", err=True)


def _in_our_words(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.NoSuchOption):
        from .config.words import nearest

        options = ctx.command.params if ctx else ()
        spellings = [word for option in options for word in (*option.opts, *option.secondary_opts)]
        near = nearest(error.option_name, spellings)
        message = f"there is no option {error.option_name}"
        message += f"; did you mean {near}?" if near else ""
    message = message[:1].lower() + message[1:]
    if ctx:
        message += f"{' See' if message.endswith('?') else '; see'} `{ctx.command_path} --help`"
    return message
