"""The command `chat`: finds a server, or starts one, and hands over to the conversation."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from . import cli_ask

if TYPE_CHECKING:
    import open_llm_client

BUILT_IN = "tiny"
_PLAIN: dict[str, Any] = {
    "grpc": False,
    "grpc_port": None,
    "probe_port": None,
    "tls_cert": None,
    "tls_key": None,
    "tls_key_password": None,
    "tls_ca": None,
}
"""What the environment says of servers for others is not meant for one of our own."""
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
    ca: str | None,
    timeout: float,
    **values: Any,
) -> None:
    from .cli_talk import Talk

    source, _ = cli_ask.need(sys.stdin, "input"), cli_ask.need(sys.stdout, "output")
    access = cli_ask.Access(url, api_key, ca, timeout)
    with cli_ask.failing(), _server(access, model) as (client, name):
        Talk(client, model=name, system=system, sampling=cli_ask.given(values)).run(source)


@contextmanager
def _server(
    access: cli_ask.Access, model: str | None
) -> Iterator[tuple[open_llm_client.Client, str | None]]:
    """The server that is meant, or one of our own, and what the model is called there."""
    import open_llm_client

    with access.connect() as client:
        try:
            client.health(timeout=min(access.timeout, LOOK_S))
        except (open_llm_client.ConnectionFailed, open_llm_client.TimedOut):
            if access.url:
                raise
        else:
            yield client, model
            return
    yield from _own(access.timeout, model)


def _own(timeout: float, model: str | None) -> Iterator[tuple[open_llm_client.Client, str | None]]:
    from .config.models import ModelSpec
    from .serving import start

    spec = ModelSpec.parse(model or BUILT_IN)
    click.echo(f"no server runs here: starting one with {spec} for this conversation", err=True)
    key = secrets.token_urlsafe()
    server = start(str(spec), host="127.0.0.1", port=0, api_key=key, **_PLAIN)
    with server, cli_ask.Access(server.url, key, None, timeout).connect() as client:
        yield client, spec.name
