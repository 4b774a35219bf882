"""How far an import is, as people see it: bars on a real terminal, lines elsewhere."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_llm_server import cli_progress
from open_llm_server.cli_bars import column_widths
from open_llm_server.cli_figures import duration, size
from open_llm_server.cli_progress import Bars, shown
from open_llm_server.store.progress import Meter, Phase, Progress

pty = pytest.importorskip("pty", reason="there are no pseudo-terminals on this system")

HANG_S = 20.0
GB = 10**9
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
STEP = re.compile(r"(?s)\x1b\[(?=[0-9;?]*([A-Za-z]))([0-9]*)[;0-9?]*[A-Za-z]|(.)")


class Terminal:
    """A pseudo-terminal whose other side is read all the time."""

    def __init__(self) -> None:
        self._main, side = pty.openpty()
        self.stream = os.fdopen(side, "w", encoding="utf-8")
        self.raw = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._main, 65536)
            except OSError:  # the side was closed
                return
            if not piece:
                return
            self.raw += piece

    @property
    def text(self) -> str:
        """What was written, without what moves and colours."""
        return CONTROL.sub("", self.raw.decode())

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in re.split(r"[\r\n]+", self.text)]

    @property
    def screen(self) -> list[str]:
        """What a person would see now: carriage returns, lines up and erased lines are done."""
        rows, row, column = [""], 0, 0
        for move, count, letter in STEP.findall(self.raw.decode()):
            if move == "A":
                row = max(0, row - int(count or 1))
            elif move == "K":
                rows[row] = ""
            elif letter == "\r":
                column = 0
            elif letter == "\n":
                row += 1
                rows += [""] * (row + 1 - len(rows))
            elif letter:
                rows[row] = rows[row].ljust(column)[:column] + letter + rows[row][column + 1 :]
                column += 1
        return [line.rstrip() for line in rows]

    def wait_for(self, words: str) -> None:
        self.wait_until(lambda: words in self.text)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + HANG_S
        while not reached():
            assert time.monotonic() < deadline, self.text[-500:]
            time.sleep(0.01)

    def close(self) -> None:
        self.stream.close()
        self._reader.join(HANG_S)
        os.close(self._main)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    opened = Terminal()
    yield opened
    opened.close()


def half(phase: Phase = "downloading", **changes: object) -> Progress:
    values = {"done": GB // 2, "total": GB, "rate": 18e6, "eta_s": 42.4, **changes}
    return Progress(phase, **values)  # type: ignore[arg-type]  # checked by the class's users


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9949, "9.9 kB"),
        (9951, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (18e6, "18 MB"),
        (1.2e9, "1.2 GB"),
        (5e12, "5.0 TB"),
        (7e16, "70000 TB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (42.4, "42 s"), (99, "99 s"), (100, "2 min"), (3600, "60 min"), (9000, "2.5 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(min_value=0, max_value=1e15))
def test_a_size_is_near_what_it_says(count: float) -> None:
    number, unit = size(count).split()
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert abs(float(number) * factor - count) <= max(0.5, 0.06 * count)
    assert len(size(count)) <= len("1000000 TB")


def said(*moments: Progress, label: str = "") -> list[str]:
    stream = io.StringIO()
    bars = Bars(stream)
    for moment in moments:
        bars.update(label, moment)
    bars.close()
    return stream.getvalue().splitlines()


def test_lines_where_no_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_progress, "LINE_EVERY_S", 0.0)
    assert said(
        Progress("resolving", note="org/name"),
        Progress("downloading", 0, GB, note="model.safetensors"),
        half(),
        Progress("downloading", GB, GB),
        Progress("measuring", 0, 24),
        Progress("measuring", 12, 24, rate=1.0, eta_s=3.0),
        Progress("quantising", 0, 200),
        Progress("quantising", 50, 200, eta_s=9.0),
        Progress("finishing"),
        Progress("finishing"),
    ) == [
        "resolving (org/name)",
        "downloading 1.0 GB (model.safetensors)",
        "downloading 50% of 1.0 GB, 18 MB/s, 42 s left",
        "downloading 1.0 GB is done",
        "measuring",
        "measuring 12 of 24, 3 s left",
        "quantising",
        "quantising 25%, 9 s left",
        "finishing",
        "finishing, 0 s so far",
    ]


def test_lines_say_that_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_progress, "LINE_EVERY_S", 0.0)
    words = "hub.example is silent since 12 s, asked again"
    silent = Progress("downloading", GB // 4, GB, note=words, silent_s=12.0)
    begun = Progress("downloading", 0, GB)
    assert said(begun, silent)[1] == f"downloading 25% of 1.0 GB, {words}"


def test_lines_are_rare() -> None:
    moments = [Progress("downloading", done, GB) for done in range(0, GB, GB // 1000)]
    assert said(*moments) == ["downloading 1.0 GB"]


def test_lines_say_whose_they_are_and_what_is_here_already() -> None:
    assert said(half(), label="llama") == ["llama: downloading 1.0 GB, 50% of it is here already"]


def test_a_phase_that_comes_again_is_said_again() -> None:
    again = [Progress("checking", 0, 5000), Progress("checking", 5000, 5000)]
    assert said(*again, *again).count("checking 5.0 kB") == 2


def test_nothing_to_do_is_done_at_once() -> None:
    assert said(Progress("copying", 0, 0)) == ["copying 0 B"]


def test_names_do_nothing_to_a_terminal(terminal: Terminal) -> None:
    evil = "a\x1b[2Jb\nc"
    assert said(Progress("copying", note=evil), label=evil) == ["a?[2Jb?c: copying (a?[2Jb?c)"]
    bars = Bars(terminal.stream)
    bars.update(evil, half(note=evil))
    terminal.wait_for("a?[2Jb?c")
    bars.end(evil)
    bars.close()
    assert b"[2Jb?c" in terminal.raw and b"\x1b[2Jb" not in terminal.raw


def test_a_bar_that_moves(terminal: Terminal) -> None:
    with shown(stream=terminal.stream) as listener:
        listener(half(done=0, rate=None, eta_s=None))
        terminal.wait_for("0 B of 1.0 GB")
        listener(half())
        terminal.wait_for("50%")
    (line,) = {line for line in terminal.lines if " 50%" in line}
    assert re.fullmatch(r"downloading ━+[╸╺]?━+ +50% 500 MB of 1.0 GB  18 MB/s +42 s left", line), (
        line
    )
    assert b"\x1b[?25l" not in terminal.raw, "the cursor was hidden"
    terminal.wait_until(lambda: not any(terminal.screen))  # no line is left over


def test_several_bars_and_words_above_them(terminal: Terminal) -> None:
    bars = Bars(terminal.stream)
    bars.say("before")
    bars.update("flan-t5", half())
    bars.update("llama", Progress("resolving", note="org/name"))
    terminal.wait_for("llama   resolving")
    bars.say("WARNING: first [bold]\nsecond")
    words = ["before", "WARNING: first [bold]", "second"]
    terminal.wait_until(lambda: terminal.screen[:3] == words)
    terminal.wait_until(lambda: len(terminal.screen) == 5 and "llama" in terminal.screen[4])
    bars.end("flan-t5")
    bars.end("nobody")
    bars.end("llama")
    bars.say("after")
    bars.update("llama", half(phase="measuring", done=3, total=24))
    terminal.wait_for("3 of 24")
    bars.close()
    bars.close()
    bars.say("at last")
    words += ["after", "at last"]
    terminal.wait_until(lambda: [*filter(None, terminal.screen)] == words)


def test_no_colour(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with shown(stream=terminal.stream) as listener:
        listener(half())
        terminal.wait_for("50%")
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9][;m]|\x1b\[38", terminal.raw)


@pytest.mark.parametrize("variable", ["TERM=dumb", "TTY_INTERACTIVE=0"])
def test_terminals_that_cannot_draw(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(*variable.split("="))
    with shown(stream=terminal.stream) as listener:
        listener(half())
    terminal.wait_for("downloading 1.0 GB, 50% of it is here already")
    assert b"\x1b" not in terminal.raw


@pytest.mark.parametrize("columns", [1, 10, 24, 40, 60, 80, 200])
def test_narrow_terminals(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with shown(stream=terminal.stream) as listener:
        listener(half(note="model-00001-of-00004.safetensors"))
        if columns > 1:
            terminal.wait_for("downloading"[: columns // 3])
    assert all(len(line) <= columns for line in terminal.lines)


TEXTS = st.fixed_dictionaries(
    {
        name: st.text("x", max_size=longest)
        for name, longest in (
            *(("label", 20), ("phase", 11), ("note", 32), ("bar", 0)),
            *(("share", 4), ("amount", 16), ("rate", 8), ("left", 11)),
        )
    }
)


@given(st.lists(TEXTS, max_size=4), st.integers(1, 300))
def test_columns_fit(rows: list[dict[str, str]], width: int) -> None:
    widths = column_widths(rows, width)
    needed = sum(widths.values()) + max(0, len(widths) - 1)
    kept = sum(widths.get(name, -1) + 1 for name in ("phase", "note", "share")) - 1
    assert needed <= max(width, kept)
    assert [*widths] == [name for name in rows[0] if name in widths] if rows else widths == {}
    assert all(wide > 0 for wide in widths.values())
    for name in ("phase", "share"):
        assert (name in widths) == any(row[name] for row in rows)


def test_meters_of_many_threads(terminal: Terminal) -> None:
    bars = Bars(terminal.stream)

    def work(label: str) -> None:
        meter = Meter(partial(bars.update, label))
        meter.begin("copying", 1000)
        for _ in range(1000):
            meter.add(1)
        bars.end(label)

    threads = [threading.Thread(target=work, args=(f"model-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
        assert not thread.is_alive()
    bars.close()


def test_nobody_waits_for_a_terminal_that_was_stopped() -> None:
    main, side = pty.openpty()
    os.set_blocking(side, True)
    stopped = threading.Event()

    def work() -> None:
        with os.fdopen(side, "w") as stream:
            bars = Bars(stream)
            for done in range(300):
                bars.update("a", half(done=done * GB // 300))
                bars.say("x" * 500)
            bars.close()
        stopped.set()

    threading.Thread(target=work, daemon=True).start()
    assert stopped.wait(HANG_S), "it waits for somebody to read"
    os.close(main)


def test_streams_that_are_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as broken:
        for stream in (closed, broken):
            bars = Bars(stream)
            bars.update("", half())
            bars.say("words")
            bars.close()
    monkeypatch.setattr(sys, "stderr", None)
    with shown() as listener:
        listener(half())


def test_errors_go_through() -> None:
    with pytest.raises(KeyError), shown(stream=io.StringIO()):
        raise KeyError("x")


def test_rich_waits_for_a_bar() -> None:
    script = (
        "import io, sys\n"
        "from open_llm_server.cli_progress import Bars\n"
        "from open_llm_server.store.progress import Progress\n"
        "bars = Bars(io.StringIO()); bars.say('x')\n"
        "bars.update('', Progress('copying')); bars.close()\n"
        "assert 'rich' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=HANG_S)
