"""What a ticket says of its tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from open_llm_server.engine.base import Draw, Score
from open_llm_server.engine.fake import END, FIRST_WORD, FakeEngine
from open_llm_server.engine.job import Generated, Job
from open_llm_server.engine.text import TextAssembler
from open_llm_server.engine.ticket import Task, spelled


@pytest.mark.parametrize(
    ("whole_prompt", "tokens", "pieces"),
    [
        (False, [FIRST_WORD, FIRST_WORD], [b" zero", b" zero"]),
        (True, [FIRST_WORD, FIRST_WORD], [b"zero", b" zero"]),
        (True, [END, FIRST_WORD, FIRST_WORD], [b"", b"zero", b" zero"]),
        (True, [ord(" "), FIRST_WORD], [b"", b" zero"]),
        (True, [ord("a"), FIRST_WORD], [b"a", b" zero"]),
    ],
)
def test_an_answer_that_continues_nothing_begins_with_no_space(
    whole_prompt: bool, tokens: list[int], pieces: list[bytes]
) -> None:
    """As tokenisers decode: their first token loses its space, even if it is nothing else."""
    engine = FakeEngine()
    engine.limits = replace(engine.limits, whole_prompt=whole_prompt)
    job = Job(caller="", prompt=[1], draw=Draw(), max_tokens=9)
    task = Task(index=0, job=job, text=TextAssembler())
    found = []
    for token in tokens:
        score = Score(token, -1.0, [(token, -1.0)])
        piece, spelling = spelled(task, Generated(job, token, score, False), engine)
        assert spelling and spelling.raw == spelling.top[0].raw == piece
        found.append(piece)
    assert found == pieces
