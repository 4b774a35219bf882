"""The command `perplexity`: reads the file, opens the model in this process, shows how far it is.

Owns words and the terminal; `perplexity` measures. Imports engines only when it runs.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import perplexity
from .config import options
from .config.own_process import enter
from .engine.base import RowError
from .errors import ConfigurationError, EngineError, InvalidField
from .perplexity import Tally
from .registry import Registry, load_family

if TYPE_CHECKING:
    from .config.resolved import ModelPlan, Resolved
    from .engine.base import Engine

SHORTEST_CONTEXT = 16
"""What `context_length` of a model may be at least."""
LINE_EVERY_S = 5.0
"""Between two lines on progress where nobody watches a bar."""
_STANDARD_INPUT = "-"
_SHOWN = 6  # significant digits

Show = Callable[[Tally], None]


@dataclass(frozen=True)
class Found:
    """A measurement, with what it takes to repeat it."""

    plan: ModelPlan
    engine: str
    file: str
    window: int
    stride: int
    text: perplexity.Text
    tally: Tally
    seconds: float

    @property
    def source(self) -> str:
        return self.plan.source.label if self.plan.source else "built in"

    def json(self) -> str:
        """One line; a figure that is no number is null."""
        return json.dumps(
            {
                "model": self.plan.name,
                "source": self.source,
                "engine": self.engine,
                "file": self.file,
                "perplexity": _number(self.tally.perplexity),
                "tokens": self.tally.tokens,
                "mean_negative_log_likelihood": _number(self.tally.mean),
                "bits_per_byte": _number(self.tally.bits_per_byte(self.text.scored_bytes)),
                "bytes": self.text.scored_bytes,
                "window": self.window,
                "stride": self.stride,
                "seconds": round(self.seconds, 3),
            }
        )

    def words(self) -> str:
        """A line for each figure."""
        bits = self.tally.bits_per_byte(self.text.scored_bytes)
        lines = {
            "model": f"{self.plan.name} ({self.source}), {self.engine}",
            "perplexity": f"{self.tally.perplexity:.{_SHOWN}g}",
            "tokens": f"{self.tally.tokens} scored, in {self.seconds:.1f} s",
            "mean negative log-likelihood": f"{self.tally.mean:.{_SHOWN}g} nats a token",
            "bits per byte": f"{bits:.{_SHOWN}g}",
            "window": f"{self.window} tokens, {self.stride} apart",
        }
        width = max(map(len, lines))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def command(summary: str, resolve: Callable[[tuple[str, ...]], Resolved]) -> click.Command:
    """The command; `resolve` merges the configuration for what its arguments name."""

    def run(model: str, file: str, **chosen: Any) -> None:
        _run(resolve((model,)), file, chosen)

    return options.FieldCommand(
        "perplexity",
        callback=run,
        params=[
            click.Argument(["model"]),
            click.Argument(["file"]),
            click.Option(
                ["window", "--context"],
                type=click.IntRange(min=2),
                metavar="N",
                help="Tokens of a window; default: the model's context, at most "
                f"{perplexity.USUAL_WINDOW}.",
            ),
            click.Option(
                ["--stride"],
                type=click.IntRange(min=1),
                metavar="N",
                help="Tokens from one window's begin to the next one's; default: half a window. "
                "Less gives each token more context, and takes longer.",
            ),
            click.Option(["as_json", "--json"], is_flag=True, help="One line for machines."),
            *options.source_options(),
            *options.model_options(),
            *options.family_options(Registry.own_names()),
        ],
        short_help=summary,
        help="Measure how well MODEL foretells the text of FILE (UTF-8; - for standard input).\n\n"
        "MODEL is named as for `start`, and takes the same options; those on how answers are "
        "drawn change nothing here. It runs in this process, and no server does. The text is "
        "read in overlapping windows, and every token is scored once. Progress goes to standard "
        "error, the result to standard output.",
    )


def _run(resolved: Resolved, file: str, chosen: dict[str, Any]) -> None:
    if len(resolved.models) > 1:
        names = ", ".join(plan.name for plan in resolved.models)
        raise ConfigurationError(f"perplexity measures one model at a time, and not {names}")
    (plan,) = resolved.models
    text = read_file(file)
    family = load_family(plan)
    family.check_installed(plan)
    if plan.missing:
        from .cli_progress import shown
        from .store.importing import ensure

        with shown() as listener:
            plan = ensure(plan, listener)
    family.check_weights(plan)
    from .fit import check_fit

    check_fit(plan)
    enter(plan)
    found = _measure(plan, file, text, window=chosen["window"], stride=chosen["stride"])
    click.echo(found.json() if chosen["as_json"] else found.words())


def read_file(file: str) -> str:
    """The text of `file`, without a byte order mark. Raises ConfigurationError or InvalidField."""
    where = "standard input" if file == _STANDARD_INPUT else file
    try:
        raw = sys.stdin.buffer.read() if file == _STANDARD_INPUT else Path(file).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {where}: {error.strerror or error}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidField(
            f"{where} is no UTF-8 text: byte {error.start} is 0x{raw[error.start]:02x}; convert "
            "it first, say with iconv",
            param="file",
        ) from error
    if not text.strip():
        raise InvalidField(f"{where} is empty; take a text of some sentences", param="file")
    return text


def _measure(
    plan: ModelPlan, file: str, text: str, *, window: int | None, stride: int | None
) -> Found:
    family = load_family(plan)
    values = dict(plan.config)
    if window is not None:
        values["context_length"] = max(window, SHORTEST_CONTEXT)
        if stride is not None:
            perplexity.check_windows(window, stride)
    engine = family.open_engine(plan, family.Config.model_validate(values), pinned_slots=0)
    try:
        perplexity.check(engine, name=plan.name)
        size = perplexity.window_size(engine, window)
        stride = max(1, size // 2) if stride is None else stride
        read = perplexity.read(engine, text)
        steps = perplexity.measure(engine, read.tokens, size=size, stride=stride)
        began, tally = time.monotonic(), None
        with _progress(len(read.tokens) - 1) as show:
            for tally in _interruptible(engine, steps):
                show(tally)
    except (RowError, RuntimeError) as error:
        raise EngineError(f"model {plan.name} failed on this text: {error}") from error
    finally:
        engine.close()
    assert tally, "a text of two tokens has a window"
    seconds = time.monotonic() - began
    return Found(plan, family.engine_of(plan.config), file, size, stride, read, tally, seconds)


def _interruptible(engine: Engine, steps: Iterator[Tally]) -> Iterator[Tally]:
    """`steps`, each made in a thread beside this one, so that Ctrl-C need not wait for its end."""
    with ThreadPoolExecutor(1) as thread:
        try:
            while tally := thread.submit(next, steps, None).result():
                yield tally
        except KeyboardInterrupt:
            engine.abort()
            raise


@contextmanager
def _progress(total: int) -> Iterator[Show]:
    """What shows how far it is: a bar on a terminal, now and then a line elsewhere."""
    if sys.stderr.isatty():
        with click.progressbar(
            length=total,
            file=sys.stderr,
            show_pos=True,
            item_show_func=lambda tally: f"perplexity {tally.perplexity:.4g}" if tally else None,
        ) as bar:
            yield lambda tally: bar.update(tally.tokens - bar.pos, tally)
    else:
        yield _lines(total)


def _lines(total: int) -> Show:
    said = time.monotonic()

    def show(tally: Tally) -> None:
        nonlocal said
        if time.monotonic() - said >= LINE_EVERY_S:
            said = time.monotonic()
            share = 100 * tally.tokens // total
            click.echo(
                f"{share}% of {total} tokens, perplexity so far {tally.perplexity:.4g}", err=True
            )

    return show


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
