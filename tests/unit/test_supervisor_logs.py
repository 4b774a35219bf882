from __future__ import annotations

import logging
import os
import subprocess
import sys
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from open_llm_server.supervisor_logs import TAIL_LINES, LevelLines, OutputLines


def pushed(output: OutputLines, *chunks: bytes) -> list[str]:
    shown = [line for chunk in chunks for line in output.push(chunk)]
    return [*shown, *output.close()]


def test_a_record_keeps_its_level_on_each_line_and_all_of_it_is_shown() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "one\ntwo\n\nthree", None, None)
    text = LevelLines("%(message)s").format(record)
    assert text == "ERROR: one\nERROR| two\nERROR| \nERROR| three"
    assert pushed(OutputLines(), text.encode()) == [
        "ERROR: one",
        "ERROR| two",
        "ERROR|",
        "ERROR| three",
    ]


def test_chatter_is_kept_for_the_case_of_a_crash() -> None:
    output = OutputLines()
    noise = "".join(f"chatter {number}\n" for number in range(50)).encode()
    assert pushed(output, noise, b"WARNING: careful\n", b"error: last words") == [
        "WARNING: careful"
    ]
    unseen = output.unseen()
    assert len(unseen) == TAIL_LINES
    assert unseen[-2:] == ["chatter 49", "error: last words"]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_where_output_was_cut_does_not_matter(raw: bytes, cuts: list[int]) -> None:
    whole, pieces = OutputLines(), OutputLines()
    edges = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    chunks = [raw[start:end] for start, end in pairwise(edges)]
    assert pushed(pieces, *chunks) == pushed(whole, raw)
    assert pieces.unseen() == whole.unseen()


def test_nothing_waits_for_a_reader_that_does_not_read() -> None:
    """A full pipe, a closed one and a full disk: the speaker goes on."""
    code = (
        "from open_llm_server.supervisor_logs import say\n"
        "for number in range(10_000):\n"
        "    say('x' * 5000 + '\\nsecond line')\n"
        "print('went on')\n"
    )
    unread, unreader = os.pipe()
    closed, closer = os.pipe()
    os.close(closed)
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        for stderr in (unreader, closer, full):
            done = subprocess.run(
                [sys.executable, "-c", code],
                stdout=subprocess.PIPE,
                stderr=stderr,
                timeout=60,
                check=True,
            )
            assert done.stdout == b"went on\n"
    assert os.read(unread, 4001) == b"x" * 4000 + b"\n"
    for descriptor in (unread, unreader, closer):
        os.close(descriptor)


def test_an_endless_line_is_not_kept_whole() -> None:
    output = OutputLines()
    for _ in range(100):
        assert not list(output.push(b"x" * 10_000))
    assert list(output.push(b"\nWARNING: still here\n")) == ["WARNING: still here"]
    assert len(output.unseen()[0]) < 10_000
