"""The command `doctor`: findings as grouped lines, or as JSON.

Owns words and colours; `doctor` looks.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .cli_figures import printable
from .config import options
from .errors import OpenLLMError

if TYPE_CHECKING:
    from .config.resolved import Resolved
    from .doctor_finding import Case, Finding

_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "red"}
_MARK = max(map(len, _COLOURS))


def command(summary: str, resolve: Callable[[Sequence[str]], Resolved]) -> click.Command:
    """The command; `resolve` merges the configuration, as for `start`."""

    def run(models: tuple[str, ...], *, as_json: bool, network: bool, **_: Any) -> int:
        case = _case(models, resolve, network=network)
        with _leaving():
            return (_tell_json if as_json else _tell)(case)

    return options.FieldCommand(
        "doctor",
        callback=run,
        params=[
            click.Argument(["models"], nargs=-1, metavar="[MODELS]..."),
            click.Option(["as_json", "--json"], is_flag=True, help="For machines."),
            click.Option(["--network"], is_flag=True, help="Ask the hub too whether it answers."),
            *options.start_options(),
        ],
        short_help=summary,
        help="Check this machine, and say what to do about each finding.\n\n"
        "Takes the same arguments as `start`, and checks what that start would need; without "
        "MODELS, those of the configuration, else the built-in one. Leaves with 1 if something "
        "would stop the start, with 0 if not.",
    )


@contextmanager
def _leaving() -> Iterator[None]:
    """Who is told to end takes the children and their folders along."""
    from . import doctor_ask

    def leave(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)  # as shells have it

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        doctor_ask.end_all()
        signal.signal(signal.SIGTERM, before)


def _case(
    models: Sequence[str], resolve: Callable[[Sequence[str]], Resolved], *, network: bool
) -> Case:
    from .doctor_finding import BUILT_IN, Case

    words = tuple(models)
    try:
        return Case(words, resolve(words), network=network)
    except OpenLLMError as error:
        if error.param == "models" and not words:  # none is named anywhere
            case = _case([BUILT_IN], resolve, network=network)
            return replace(case, assumed=True)
        return Case(words, fault=error, network=network)


def _tell(case: Case) -> int:
    from . import doctor

    every: list[Finding] = []
    for title, findings in doctor.examine(case):
        every += findings
        if findings:
            click.secho(title, bold=True)
        for finding in findings:
            _tell_one(finding)
    worst = "problem" if doctor.stops(every) else "ok"
    click.secho(f"\n{printable(doctor.summary(case, every))}", fg=_COLOURS[worst], bold=True)
    return int(doctor.stops(every))


def _tell_one(finding: Finding) -> None:
    mark = click.style(f"{finding.level:<{_MARK}}", fg=_COLOURS[finding.level])
    click.echo(f"  {mark}  {printable(f'{finding.subject}: {finding.says}')}")
    if finding.do:
        click.echo(f"  {'':<{_MARK}}  > {printable(finding.do)}")


def _tell_json(case: Case) -> int:
    from . import doctor

    sections = list(doctor.examine(case))
    every = [finding for _, findings in sections for finding in findings]
    told = {
        "starts": not doctor.stops(every),
        "summary": doctor.summary(case, every),
        "models": [plan.name for plan in case.plans],
        "findings": [
            {"group": title, **asdict(finding)}
            for title, findings in sections
            for finding in findings
        ],
    }
    click.echo(json.dumps(told, indent=2))
    return int(doctor.stops(every))
