"""Perplexity: which token is scored where, how windows share steps, and what the command says."""

from __future__ import annotations

import io
import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from open_llm_server import perplexity
from open_llm_server.cli import main
from open_llm_server.cli_perplexity import read_file
from open_llm_server.engine.base import Batch, Limits, Outcome, Row, Score
from open_llm_server.engine.fake import VOCABULARY, FakeEngine
from open_llm_server.errors import (
    ConfigurationError,
    ContextLengthExceeded,
    InvalidField,
    NotSupported,
)

HANG_S = 60


class Witness(FakeEngine):
    """Scores a token by what came before it in its slot, and writes down every step."""

    def __init__(self, **limits: Any) -> None:
        super().__init__(**limits)
        self.steps: list[Batch] = []
        self.contexts: dict[int, int] = {}
        """Scored token -> tokens before it in its window; the text's tokens are 0, 1, 2, …"""

    def step(self, batch: Batch) -> list[Outcome]:
        self.steps.append(batch)
        outcomes = super().step(batch)
        return [
            self._witness(row, outcome) for row, outcome in zip(batch.rows, outcomes, strict=True)
        ]

    def _witness(self, row: Row, outcome: Outcome) -> Outcome:
        scores = []
        for place, target in enumerate(row.targets):
            assert target == row.tokens[place] + 1, "a target follows its token"
            assert target not in self.contexts, "a token is scored once"
            self.contexts[target] = row.start + place + 1
            scores.append(Score(target, -float(target)))
        return Outcome(row.slot, targets=scores)


def run(engine: FakeEngine, tokens: Sequence[int], size: int, stride: int) -> perplexity.Tally:
    *_, last = perplexity.measure(engine, tokens, size=size, stride=stride)
    return last


@given(
    count=some.integers(2, 120),
    size=some.integers(2, 40),
    stride=some.integers(1, 39),
    slots=some.integers(1, 5),
    batch_tokens=some.integers(5, 50),
)
def test_every_token_is_scored_once_with_enough_context(
    count: int, size: int, stride: int, slots: int, batch_tokens: int
) -> None:
    stride = min(stride, size - 1)
    engine = Witness(context_length=size, slots=slots, batch_tokens=batch_tokens)
    tally = run(engine, range(count), size, stride)
    assert sorted(engine.contexts) == list(range(1, count))
    assert all(seen >= min(size - stride, token) for token, seen in engine.contexts.items())
    assert tally.tokens == count - 1
    assert tally.negative_log_likelihood == pytest.approx(sum(range(count)))
    for step in engine.steps:
        assert 0 < step.tokens <= batch_tokens
        assert len({row.slot for row in step.rows}) == len(step.rows) <= slots
        assert all(row.start + len(row.tokens) < size for row in step.rows)


def test_windows_are_those_of_transformers_guide() -> None:
    assert list(perplexity.windows(10, size=4, stride=2)) == [
        perplexity.Window(0, 1, 4),
        perplexity.Window(2, 4, 6),
        perplexity.Window(4, 6, 8),
        perplexity.Window(6, 8, 10),
    ]
    assert list(perplexity.windows(1, size=4, stride=2)) == []
    assert list(perplexity.windows(3, size=8, stride=4)) == [perplexity.Window(0, 1, 3)]


def test_small_windows_share_steps_and_large_ones_do_not() -> None:
    engine = Witness(context_length=64, slots=4, batch_tokens=64)
    run(engine, range(120), 16, 8)
    assert max(len(step.rows) for step in engine.steps) == 4
    engine = Witness(context_length=256, slots=4, batch_tokens=64)
    run(engine, range(1000), 256, 128)
    assert {len(step.rows) for step in engine.steps} == {1}
    assert min(step.tokens for step in engine.steps[:-1]) >= 62, "no slivers"


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (8, 0), (8, 8), (8, 9)])
def test_impossible_windows(size: int, stride: int) -> None:
    with pytest.raises(ConfigurationError, match=r"--context|--stride"):
        list(perplexity.windows(100, size=size, stride=stride))


def test_what_a_tally_says() -> None:
    tally = perplexity.Tally(4, 8 * math.log(2))
    assert tally.mean == pytest.approx(2 * math.log(2))
    assert tally.perplexity == pytest.approx(4)
    assert tally.bits_per_byte(16) == pytest.approx(0.5)
    assert perplexity.Tally(1, 1e6).perplexity == math.inf


def test_the_window_that_nobody_asked_for() -> None:
    assert perplexity.window_size(FakeEngine(context_length=512), None) == 512
    assert perplexity.window_size(FakeEngine(context_length=8192), None) == 2048
    assert perplexity.window_size(FakeEngine(context_length=8192), 4096) == 4096
    with pytest.raises(ConfigurationError, match="holds 512 tokens"):
        perplexity.window_size(FakeEngine(context_length=512), 513)


class Narrow(FakeEngine):
    """Refuses texts that its context cannot hold, and may begin each text with a token."""

    begins = False

    def tokenize(self, text: str, *, begin: bool, control: bool) -> list[int]:
        if len(text) > self.limits.context_length:
            raise ContextLengthExceeded("too long", n_prompt_tokens=len(text), n_ctx=1)
        first = [VOCABULARY - 1] if begin and self.begins else []
        return first + super().tokenize(text, begin=begin, control=control)


@pytest.mark.parametrize(
    "text", ["words " * 9000, "x" * 40_000, "line\n" * 8000, "\u4f60\U0001f600" * 9000]
)
@pytest.mark.parametrize("context_length", [16, 1000, 100_000])
def test_long_texts_have_the_tokens_of_the_whole(text: str, context_length: int) -> None:
    read = perplexity.read(Narrow(context_length=context_length), text)
    assert bytes(read.tokens) == text.encode()
    assert read.scored_bytes == len(text.encode()) - 1


def test_a_begin_token_foretells_the_first() -> None:
    engine = Narrow(context_length=64)
    engine.begins = True
    read = perplexity.read(engine, "abc")
    assert (len(read.tokens), read.scored_bytes) == (4, 3)
    assert list(perplexity.read(engine, "a").tokens) == [VOCABULARY - 1, ord("a")]


def test_control_tokens_in_a_text_are_text() -> None:
    assert bytes(perplexity.read(FakeEngine(), "a<end>b").tokens) == b"a<end>b"


def test_a_text_of_one_token_is_too_short() -> None:
    with pytest.raises(InvalidField, match="at least 2 are needed"):
        perplexity.read(FakeEngine(), "a")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"generates": False}, "embeddings"), ({"whole_prompt": True}, "encoder")],
)
def test_models_without_a_likelihood_are_refused(changes: dict[str, bool], words: str) -> None:
    engine = FakeEngine()
    engine.limits = Limits(10, 1, 10, 300, frozenset(), **changes)  # type: ignore[arg-type]  # flags
    with pytest.raises(NotSupported, match=rf"model m .*{words}"):
        perplexity.check(engine, name="m")
    perplexity.check(FakeEngine(), name="m")


@pytest.fixture
def same_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command would change the environment of its process, which here is all tests'."""
    monkeypatch.setattr("open_llm_server.cli_perplexity.enter", lambda plan: None)


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `perplexity`."""
    with pytest.raises(SystemExit) as left:
        main(["perplexity", *words])
    code = left.value.code
    assert code is None or isinstance(code, int)
    out, err = capsys.readouterr()
    return code or 0, out, err


@pytest.mark.usefixtures("same_environment")
def test_the_command_measures_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xef\xbb\xbf" + b"one two three " * 20)
    code, out, err = call(capsys, "fake", str(file), "--context", "64", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    # No byte is ever the likeliest of the fake's tokens: all have the same chance.
    chance = math.log((VOCABULARY - 1) / 0.5)
    assert found.pop("seconds") >= 0
    assert found == {
        "model": "fake",
        "source": "built in",
        "engine": "fake",
        "file": str(file),
        "perplexity": pytest.approx(math.exp(chance)),
        "tokens": 279,
        "mean_negative_log_likelihood": pytest.approx(chance),
        "bits_per_byte": pytest.approx(chance / math.log(2)),
        "bytes": 279,
        "window": 64,
        "stride": 32,
    }
    code, out, _ = call(capsys, "mine=fake", str(file), "--context-length", "100", "--stride", "7")
    assert "mine (built in), fake" in out
    assert "100 tokens, 7 apart" in out
    assert "perplexity                    552\n" in out


@pytest.mark.usefixtures("same_environment")
@pytest.mark.parametrize(
    ("words", "raw", "code", "message"),
    [
        ("fake {}", b"", 1, "text.txt is empty"),
        ("fake {}", b" \n", 1, "text.txt is empty"),
        ("fake {}", b"a", 1, "at least 2 are needed"),
        ("fake {}", b"ab\xff", 1, "no UTF-8 text: byte 2 is 0xff"),
        ("fake {}.none", b"", 2, "cannot read .*No such file"),
        ("fake,tiny {}", b"ab", 2, "one model at a time, and not fake, tiny"),
        ("fakes {}", b"ab", 2, "'fake'"),
        ("fake {} --context 8 --stride 8", b"ab", 2, "--stride: want 1 to 7"),
        ("fake {} --context 1", b"ab", 2, "--context"),
        ("fake {} --port 1", b"ab", 2, "no option --port"),
        ("fake {} --fail-on o", b"o, no", 1, "the fake engine was told to fail"),
        ("fake", b"", 2, "missing argument 'FILE'"),
    ],
)
def test_what_the_command_refuses(
    words: str, raw: bytes, code: int, message: str,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "text.txt"
    file.write_bytes(raw)
    found, out, err = call(capsys, *words.format(file).split())
    assert (found, out) == (code, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err), err


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"words\r\n"), encoding="ascii"))
    assert read_file("-") == "words\r\n"


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "open_llm_server", "perplexity", *words]


def test_ctrl_c_leaves_at_once_and_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("word " * 50)
    script = (
        "import sys\n"
        "from open_llm_server.cli import main\n"
        "from open_llm_server.engine.fake import FakeEngine\n"
        "step = FakeEngine._suffer\n"
        "def told(self, rows):\n"
        "    wait = self._aborted.wait\n"
        "    self._aborted.wait = lambda s: (print('stepping', flush=True), wait(s))[1]\n"
        "    step(self, rows)\n"
        "FakeEngine._suffer = told\n"
        "main(sys.argv[1:])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "perplexity", "fake", tmp_path / "text", "--step-s", "600"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "stepping\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=HANG_S)
    assert process.returncode == 130
    assert error.strip() == ""


def test_a_terminal_sees_a_bar(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("word " * 50)
    terminal, theirs = pty.openpty()
    done = subprocess.run(
        command("fake", str(tmp_path / "text"), "--json"),
        stdout=subprocess.PIPE, stderr=theirs, timeout=HANG_S,
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(terminal, 2**16).decode()
    os.close(terminal)
    assert done.returncode == 0
    assert json.loads(done.stdout)["tokens"] == 249
    assert "249/249" in shown and "perplexity 552" in shown


@pytest.mark.parametrize("words", [["--help"], ["fake", "none.txt"]])
def test_nothing_heavy_is_imported_before_the_environment_is_set(words: list[str]) -> None:
    script = (
        "import sys\n"
        "from open_llm_server import cli_perplexity\n"
        "from open_llm_server.cli import main\n"
        "try:\n    main(['perplexity', *sys.argv[1:]])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'llama_cpp', 'bentoml', 'aiohttp', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, *words], check=True, capture_output=True)
