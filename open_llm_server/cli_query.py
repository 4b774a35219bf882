"""The command `query`: one question to a running server, for pipes and scripts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any, TextIO

import click

from . import cli_ask


def command(summary: str) -> click.Command:
    """The command; `summary` is its line in the list of commands."""
    return click.Command(
        "query",
        callback=_run,
        params=[
            click.Argument(["prompt"]),
            click.Option(["--model"], metavar="NAME", help="Default: the server's first model."),
            click.Option(["--system"], metavar="TEXT", help="What the model is told beforehand."),
            click.Option(["as_json", "--json"], is_flag=True, help="The whole answer, as JSON."),
            *cli_ask.sampling_options(),
            *cli_ask.server_options(),
        ],
        short_help=summary,
        help="Ask a running server one question, and print the answer as it comes.\n\n"
        "PROMPT is the question; `-` reads it from standard input. " + cli_ask.CODES,
    )


def _run(
    prompt: str,
    *,
    model: str | None,
    system: str | None,
    as_json: bool,
    url: str | None,
    api_key: str | None,
    ca: str | None,
    timeout: float,
    **values: Any,
) -> None:
    access, output = cli_ask.Access(url, api_key, ca, timeout), cli_ask.need(sys.stdout, "output")
    text = _standard_input() if prompt == "-" else prompt
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": text})
    sampling = cli_ask.given(values)
    with cli_ask.failing(), access.connect(model) as client:
        if as_json:
            click.echo(json.dumps(asdict(client.chat(messages=messages, **sampling)), indent=2))
            return
        _print(output, client.chat(messages=messages, stream=True, **sampling))


def _print(output: TextIO, stream: Any) -> None:
    """What comes goes out at once; the line ends even where the answer breaks off."""
    safe = cli_ask.shown if output.isatty() else str
    begun = False
    try:
        with stream:
            for delta in stream:
                begun = True
                click.echo(safe(delta.text), nl=False)
                output.flush()
    finally:
        if begun:
            click.echo()


def _standard_input() -> str:
    try:
        return cli_ask.need(sys.stdin, "input").buffer.read().decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(
            f"standard input is not UTF-8 text (byte {error.start}); convert it, as with iconv"
        ) from error
