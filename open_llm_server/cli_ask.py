"""What the commands that ask a server share: which server, which values, and exit codes.

Owns words and the terminal. The asking is the client package's, which is imported when it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    import open_llm_client

ENDPOINT = "OPEN_LLM_ENDPOINT"
REFUSED = 2
NO_SERVER = 69  # EX_UNAVAILABLE of sysexits.h
LATER = 75  # EX_TEMPFAIL
ODD_ANSWER = 76  # EX_PROTOCOL
NO_KEY = 77  # EX_NOPERM
CODES = (
    "Exit codes: 0 answered, 1 failed, 2 refused (a value, the model, the length), 69 no server, "
    "75 try again later, 76 not an answer of this server, 77 wrong key, 130 Ctrl-C."
)
_TYPES: dict[str, Any] = {"integer": click.INT, "number": click.FLOAT}


def server_options() -> list[click.Option]:
    """Which server is asked, and who asks."""
    return [
        click.Option(
            ["--url"],
            envvar=ENDPOINT,
            metavar="URL",
            help="The server, as http://, https://, grpc:// or grpcs://.  [env: OPEN_LLM_ENDPOINT; "
            "default: http://127.0.0.1:5000]",
        ),
        click.Option(
            ["--api-key"], metavar="KEY", help="Its key.  [env: OPEN_LLM_API_KEY, which is safer]"
        ),
        click.Option(
            ["--ca"],
            type=click.Path(exists=True, dir_okay=False),
            metavar="FILE",
            help="Certificates (PEM) that vouch for an https:// or grpcs:// server, in place of "
            "the system's.",
        ),
        click.Option(
            ["--timeout"],
            type=click.FloatRange(min=0, min_open=True),
            default=600.0,
            show_default=True,
            metavar="SECONDS",
            help="Longest time for one answer.",
        ),
    ]


def sampling_options() -> list[click.Option]:
    """The values of a request; those left out are as the server configured the model."""
    from .config.fields import facts_of
    from .core import Sampling

    return [
        click.Option(
            [f"--{name.replace('_', '-')}", name],
            type=_TYPES.get(facts.kind, click.STRING),
            multiple=facts.kind == "list",
            metavar={"integer": "INTEGER", "number": "NUMBER"}.get(facts.kind, "TEXT"),
            help=facts.description,
        )
        for name, facts in facts_of(Sampling).items()
    ]


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling values that were given."""
    return {name: value for name, value in values.items() if value not in (None, ())}


@dataclass(frozen=True)
class Access:
    """Which server is asked, and how: what `server_options` read."""

    url: str | None
    api_key: str | None
    ca: str | None
    timeout: float

    def connect(self, model: str | None = None) -> open_llm_client.Client:
        """The client. Touches no network."""
        import open_llm_client

        verify = True if self.ca is None else self.ca
        return open_llm_client.create(
            self.url, api_key=self.api_key, timeout=self.timeout, model=model, verify=verify
        )


@contextmanager
def failing() -> Iterator[None]:
    """Turns what the client raises into a line and an exit code."""
    import open_llm_client

    try:
        yield
    except open_llm_client.OpenLLMError as error:
        click.echo(f"error: {words_of(error)}", err=True)
        raise click.exceptions.Exit(exit_code(error)) from None
    except ImportError as error:  # the client's extras; its words say what to install
        click.echo(f"error: {words_of(error)}", err=True)
        raise click.exceptions.Exit(1) from None
    except BrokenPipeError:  # as `| head -1` leaves it: nobody reads any more
        _let_go_of_output()
        raise click.exceptions.Exit(1) from None
    except OSError as error:
        _let_go_of_output()
        click.echo(f"error: the answer cannot be written: {error.strerror or error}", err=True)
        raise click.exceptions.Exit(1) from None
    except (TypeError, ValueError) as error:  # nothing was sent: a URL that is none, for example
        raise click.UsageError(str(error)) from error


def _let_go_of_output() -> None:
    """What is still to be written can go nowhere; the interpreter would complain of it at its
    end."""
    with suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def need(stream: TextIO | None, name: str) -> TextIO:
    """`sys.stdin` or `sys.stdout`, which are `None` where they were closed beforehand."""
    if stream is None:
        raise click.UsageError(f"standard {name} is closed; open it, if only to /dev/null")
    return stream


def exit_code(error: open_llm_client.OpenLLMError) -> int:
    """What a script can tell failures apart by."""
    import open_llm_client as client

    codes: tuple[tuple[tuple[type[BaseException], ...], int], ...] = (
        ((client.AuthenticationError,), NO_KEY),
        ((client.RequestError,), REFUSED),
        ((client.ConnectionFailed,), NO_SERVER),
        ((client.BadAnswer,), ODD_ANSWER),
        ((client.QueueFull, client.Unavailable, client.TimedOut, client.ConnectionLost), LATER),
    )
    return next((code for kinds, code in codes if isinstance(error, kinds)), 1)


def words_of(error: Exception) -> str:
    return shown(" ".join(str(error).split()))


def shown(text: str) -> str:
    """A model's or a server's text, without what would act on a terminal."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for letter in text.replace("\r\n", "\n")
    )
