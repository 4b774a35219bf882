"""The command `chat`: finds a server, or starts one, and hands over to the conversation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from . import cli_ask

if TYPE_CHECKING:
    import open_llm_client

BUILT_IN = "tiny"
LOOK_S = 5.0
"""For a server at the usual place to say that it is there."""


def command(summary: str) -> click.Command:
    """The command; `summary` is its line in the list of commands."""
    return click.Command(
        "chat",
        callback=_run,
        params=[
            click.Argument(["model"], required=False),
            click.Option(["--system"], metavar="TEXT", help="What the model is told beforehand."),
            *cli_ask.sampling_options(),
            *cli_ask.server_options(),
        ],
        short_help=summary,
        help="Talk to MODEL of a running server; without it, to the server's first model.\n\n"
        "Where no server runs and no --url is given, one is started for as long as you talk, with "
        f"MODEL as `start` takes it, or the built-in {BUILT_IN}. /help lists what else can be "
        "typed; Ctrl-C stops an answer, Ctrl-D ends the conversation. " + cli_ask.CODES,
    )


def _run(
    model: str | None,
    *,
    system: str | None,
    url: str | None,
    api_key: str | None,
    timeout: float,
    **values: Any,
) -> None:
    from .cli_talk import Talk

    with cli_ask.failing(), _server(url, api_key, timeout, model) as (client, name):
        Talk(client, model=name, system=system, sampling=cli_ask.given(values)).run(sys.stdin)


@contextmanager
def _server(
    url: str | None, api_key: str | None, timeout: float, model: str | None
) -> Iterator[tuple[open_llm_client.Client, str | None]]:
    """The server that is meant, or one of our own, and what the model is called there."""
    import open_llm_client

    with cli_ask.connect(url, api_key, timeout, None) as client:
        try:
            client.health(timeout=min(timeout, LOOK_S))
        except (open_llm_client.ConnectionFailed, open_llm_client.TimedOut):
            if url:
                raise
        else:
            yield client, model
            return
    yield from _own(timeout, model)


def _own(timeout: float, model: str | None) -> Iterator[tuple[open_llm_client.Client, str | None]]:
    from .config.models import ModelSpec
    from .serving import start

    spec = ModelSpec.parse(model or BUILT_IN)
    click.echo(f"no server runs here: starting one with {spec} for this conversation", err=True)
    with (
        start(str(spec), port=0) as server,
        cli_ask.connect(server.url, None, timeout, None) as client,
    ):
        yield client, spec.name
