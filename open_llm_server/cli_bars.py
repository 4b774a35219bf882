"""Draws progress with rich: a line for each model, as wide as the terminal allows.

Owns what a bar looks like. Imported only where there is a terminal to draw on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from .cli_figures import Figures, printable
from .cli_stream import Unwaiting

if TYPE_CHECKING:
    from .store.progress import Progress

_FRAMES = 10  # a second
_GAP = 1
_LONGEST_LABEL = 20
_LONGEST_NOTE, _SHORTEST_NOTE = 32, 12
_WIDEST_BAR, _USUAL_BAR, _SMALLEST_BAR = 40, 20, 8
# So wide that figures which grow do not move what stands beside them.
_WIDTHS = {"share": 4, "amount": 16, "rate": 8, "left": 11}
_DROPPED_FIRST = ("rate", "amount", "bar", "left", "label")


class _Terminal(Console):
    """Never hides the cursor, because a process that is killed could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class Drawn:
    """A line on the terminal for each model, drawn again and again by a thread of rich's."""

    def __init__(self, out: Unwaiting) -> None:
        self._console = console = _Terminal(
            file=out,  # type: ignore[arg-type]  # it has all that a console uses of a file
            highlight=False,
        )
        self.possible = console.is_interactive
        """Whether the terminal can move its cursor, which it cannot with TERM=dumb."""
        # The thread reads this without a lock: it is replaced, never changed.
        self._rows: Mapping[str, Progress] = {}
        picture = _Picture(console)
        self._live = Live(
            console=console,
            get_renderable=lambda: picture.of(self._rows),
            refresh_per_second=_FRAMES,
            transient=True,
            # What others print goes above the bars where it would go to the same terminal anyhow.
            redirect_stderr=out.stream is sys.stderr,
            redirect_stdout=bool(sys.stdout) and sys.stdout.isatty() and out.stream is sys.stderr,
        )

    def update(self, label: str, progress: Progress) -> None:
        self._rows = {**self._rows, label: progress}
        self._live.start()

    def end(self, label: str) -> None:
        self._rows = {name: row for name, row in self._rows.items() if name != label}
        if not self._rows:
            self._live.stop()

    def close(self) -> None:
        self._rows = {}
        self._live.stop()

    def say(self, line: str) -> None:
        self._console.out(line, highlight=False)


class _Picture:
    """A table without borders; columns that a narrow terminal has no room for are left out."""

    def __init__(self, console: Console) -> None:
        self._spinner = Spinner("dots" if console.encoding.startswith("utf") else "line")
        self._rows: Mapping[str, Progress] = {}

    def of(self, rows: Mapping[str, Progress]) -> _Picture:
        self._rows = rows
        return self

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table(options.max_width)

    def _table(self, width: int) -> Table:
        texts = {label: _texts(label, row) for label, row in self._rows.items()}
        widths = column_widths(list(texts.values()), width)
        table = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
        for name, wide in widths.items():
            table.add_column(
                justify="right" if name in _WIDTHS else "left",
                width=wide,
                no_wrap=True,
                style={"label": "bold", "note": "dim"}.get(name, ""),
            )
        for label, row in self._rows.items():
            bar = (
                self._spinner
                if row.total is None
                else ProgressBar(max(row.total, 1), row.done, width=widths.get("bar"))
            )
            table.add_row(*(bar if name == "bar" else Text(texts[label][name]) for name in widths))
        return table


def _texts(label: str, progress: Progress) -> dict[str, str]:
    """The columns of one line, in their order; the bar is drawn by others."""
    figures = Figures.of(progress)
    note = printable(progress.note)
    return {
        "label": label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…",
        "phase": progress.phase,
        "note": note if len(note) <= _LONGEST_NOTE else f"…{note[1 - _LONGEST_NOTE :]}",
        "bar": "",
        "share": figures.share,
        "amount": figures.amount,
        "rate": figures.rate,
        "left": figures.left,
    }


def column_widths(rows: list[dict[str, str]], width: int) -> dict[str, int]:
    """The columns that `width` cells have room for, with the cells of each, in their order."""
    counted = any(row["share"] for row in rows)
    widths = {
        name: max(_WIDTHS.get(name, 0) if counted else 0, *(len(row[name]) for row in rows))
        for name in (rows[0] if rows else ())
    }
    widths = {name: wide for name, wide in widths.items() if wide}
    note = widths.pop("note", 0)
    widths |= {"bar": _SMALLEST_BAR} if widths else {}
    for name in _DROPPED_FIRST:
        if _total(widths) > width:
            widths.pop(name, None)
    spare = width - _total(widths)
    if "bar" in widths:
        wider = min(spare, _USUAL_BAR - _SMALLEST_BAR)
        widths["bar"] += wider
        spare -= wider
        note = min(note, spare - _GAP)
        if note >= _SHORTEST_NOTE:
            widths["note"] = note
            spare -= note + _GAP
        widths["bar"] += min(spare, _WIDEST_BAR - widths["bar"])
    return {name: widths[name] for name in (rows[0] if rows else ()) if name in widths}


def _total(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + _GAP * max(0, len(widths) - 1)
