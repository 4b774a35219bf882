"""Steps, slots and prefixes of the llama.cpp engine."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from ggufs import small
from llama_engines import BROKEN, PROMPT, generate, load

from open_llm_server.engine.base import Aborted, Batch, Copy, Draw, Row, RowError
from open_llm_server.engine.llama_cpp import LlamaCppEngine

pytestmark = pytest.mark.weights


def test_a_batch_changes_nobodys_tokens(engine: LlamaCppEngine) -> None:
    prompts = [[1, 300 + 7 * place, 320, 330 + place] for place in range(4)]
    alone = []
    for prompt in prompts:
        alone.append(generate(engine, 12, prompt=prompt))
        engine.forget(0)
    draws = [Draw(prompt=prompt) for prompt in prompts]
    rows = [Row(i, prompts[i], 0, draws[i]) for i in range(4)]
    together: list[list[int]] = [[], [], [], []]
    for _ in range(12):
        outcomes = engine.step(Batch(rows=rows))
        for outcome in outcomes:
            assert outcome.token is not None
            together[outcome.slot].append(outcome.token)
        rows = [
            Row(row.slot, [together[row.slot][-1]], row.start + len(row.tokens), row.draw)
            for row in rows
        ]
    assert together == alone


def test_prefill_in_chunks_beside_a_decode(engine: LlamaCppEngine) -> None:
    expected = generate(engine, 6)
    engine.forget(0)
    other, draw = Draw(), Draw(prompt=PROMPT)
    (outcome,) = engine.step(Batch(rows=[Row(1, [1, 305], 0, other)]))
    engine.step(Batch(rows=[Row(1, [outcome.token or 0], 2, other), Row(0, PROMPT[:3], 0)]))
    _, first = engine.step(Batch(rows=[Row(1, [301], 3, other), Row(0, PROMPT[3:], 3, draw)]))
    assert first.token == expected[0]
    rest = generate(engine, 5, draw, prompt=[*PROMPT, expected[0]], start=len(PROMPT))
    assert rest == expected[1:]


def test_a_copied_prefix_is_as_good_as_an_evaluated_one(engine: LlamaCppEngine) -> None:
    expected = generate(engine, 8)
    copy = Copy(source=0, target=2, length=5)
    draw = Draw(prompt=PROMPT)
    # The source goes on, and what the target held before is gone.
    engine.step(Batch(rows=[Row(2, [1, 444, 445, 446, 447, 448, 449], 0)]))
    batch = Batch(trims=[(2, 0)], copies=[copy], rows=[Row(2, PROMPT[5:], 5, draw)])
    (outcome,) = engine.step(batch)
    assert outcome.token == expected[0]
    engine.forget(0)
    rest = generate(engine, 7, draw, slot=2, prompt=[*PROMPT, expected[0]], start=len(PROMPT))
    assert rest == expected[1:]


def test_copies_of_one_step_build_on_each_other(engine: LlamaCppEngine) -> None:
    expected = generate(engine, 1)
    draws = [Draw(prompt=PROMPT) for _ in range(4)]
    batch = Batch(
        copies=[Copy(0, 3, 5), Copy(3, 1, 4), Copy(3, 2, 5)],
        rows=[Row(n, PROMPT[held:], held, draws[n]) for n, held in ((3, 5), (1, 4), (2, 5))],
    )
    assert [outcome.token for outcome in engine.step(batch)] == 3 * expected


def test_slots_that_work_together_are_neighbours(weights: Path) -> None:
    engine = load(weights, slots=6)
    prompts = {slot: [*PROMPT[: 3 + slot], 330 + slot] for slot in range(6)}
    draws = {slot: Draw(prompt=prompt) for slot, prompt in prompts.items()}
    expected = {}
    for slot, prompt in prompts.items():
        expected[slot] = generate(engine, 8, slot=slot, prompt=prompt)
        engine.forget(slot)
    rows = {slot: Row(slot, prompts[slot], 0, draws[slot]) for slot in (0, 1, 2, 3, 5)}
    found: dict[int, list[int]] = {slot: [] for slot in range(6)}

    def step(*slots: int) -> None:
        for outcome in engine.step(Batch(rows=[rows[slot] for slot in slots])):
            assert outcome.token is not None
            found[outcome.slot].append(outcome.token)
            row = rows[outcome.slot]
            length = row.start + len(row.tokens)
            rows[outcome.slot] = Row(row.slot, [outcome.token], length, row.draw)
        places = sorted(map(engine._sequences.of, slots))
        assert places == list(range(places[0], places[0] + len(slots)))

    # Full slots change places with full and with empty ones.
    for slots in ((0, 1, 2, 3), (0, 3), (5, 0), (1, 2, 5), (0, 5, 2), (3, 1), (0, 1, 2, 3, 5)):
        step(*slots)
    for slot, tokens in found.items():
        assert tokens == expected[slot][: len(tokens)]
    rows[4] = Row(4, prompts[4], 0, draws[4])
    step(4, 0)
    assert found[4] == expected[4][:1]
    engine.close()


def test_a_large_room_is_given_back(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(weights)  # of its own: other tests may have left small rooms in a shared one
    expected = generate(engine, 1)
    monkeypatch.setattr("open_llm_server.engine.llama_sequences.KEPT_BYTES", 0)
    draw = Draw(prompt=PROMPT)
    batch = Batch(copies=[Copy(0, 2, 5)], rows=[Row(2, PROMPT[5:], 5, draw)])
    assert [outcome.token for outcome in engine.step(batch)] == expected
    assert not any(len(state._bytes) for state in engine._sequences._states)
    engine.close()


def test_as_few_tokens_as_possible_move(weights: Path) -> None:
    engine = load(weights, slots=6)
    for slot, count in ((0, 100), (4, 10), (5, 50)):
        engine.step(Batch(rows=[Row(slot, [1] * count, 0)]))
    engine._sequences.gather({0, 5})
    # The shorter one came to the longer one, and nothing stood in its way.
    assert (engine._sequences.of(0), engine._sequences.of(5)) == (0, 1)
    engine.close()


def test_a_trim_takes_the_end_away(engine: LlamaCppEngine) -> None:
    expected = generate(engine, 4)
    batch = Batch(trims=[(0, 6)], rows=[Row(0, PROMPT[6:], 6, Draw(prompt=PROMPT))])
    (outcome,) = engine.step(batch)
    assert outcome.token == expected[0]


def test_a_row_that_does_not_fit_its_slot_is_refused(engine: LlamaCppEngine) -> None:
    with pytest.raises(ValueError, match="holds 0 tokens"):
        engine.step(Batch(rows=[Row(0, [300], 4)]))
    with pytest.raises(ValueError, match="over the limit"):
        engine.step(Batch(rows=[Row(0, [300] * (engine.limits.batch_tokens + 1), 0)]))
    assert len(generate(engine, 2)) == 2


def test_a_row_without_numbers_fails_alone(engine: LlamaCppEngine) -> None:
    expected = generate(engine, 4)
    engine.forget(0)
    draw = Draw(prompt=PROMPT)
    good = Row(0, PROMPT, 0, draw)
    with pytest.raises(RowError) as failed:
        engine.step(Batch(rows=[good, Row(3, [1, BROKEN], 0, Draw())]))
    assert failed.value.slot == 3
    # Nothing of the step counts, and the good row can be tried again.
    assert generate(engine, 4, draw) == expected


def test_every_slot_holds_the_whole_context_at_once(weights: Path) -> None:
    engine = load(weights, context_length=300, slots=3, pinned_slots=1)
    assert (engine.limits.slots, engine.limits.context_length) == (4, 300)
    tokens = [1, *range(260, 393), *range(260, 393), *range(260, 293)]
    for slot in range(4):
        engine.step(Batch(rows=[Row(slot, tokens, 0)]))
    engine.close()


# -- abort --------------------------------------------------------------------------------


def test_abort_ends_a_running_step_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(tmp_path, width=256, layers=8, feed_forward=1024, context_length=2048)
    engine = load(path, context_length=2048, slots=2, threads=1, batch_tokens=2048)
    draw = Draw(prompt=PROMPT)
    (first,) = engine.step(Batch(rows=[Row(0, PROMPT, 0, draw)]))
    assert first.token is not None
    long = [1, *([300, 301, 302] * 600)]
    entered = threading.Event()
    native_decode = engine._decode

    def decode(rows: Sequence[Row]) -> None:
        entered.set()
        native_decode(rows)

    monkeypatch.setattr(engine, "_decode", decode)
    done = threading.Event()

    def keep_aborting() -> None:
        entered.wait()
        while not done.is_set():
            engine.abort()

    thread = threading.Thread(target=keep_aborting)
    thread.start()
    try:
        with pytest.raises(Aborted):
            engine.step(Batch(rows=[Row(0, [first.token], len(PROMPT), draw), Row(1, long, 0)]))
    finally:
        done.set()
        thread.join()
    # Both slots are as before: the same step, less the long row, gives what it would have.
    monkeypatch.undo()
    row = Row(0, [first.token], len(PROMPT), draw)
    (second,) = engine.step(Batch(rows=[row, Row(1, [1, 300], 0)]))[:1]
    assert second.token == generate_alone(path, 2)[1]
    engine.close()


def generate_alone(path: Path, count: int) -> list[int]:
    engine = load(path)
    found = generate(engine, count)
    engine.close()
    return found


def test_abort_without_a_step_does_nothing(engine: LlamaCppEngine) -> None:
    engine.abort()
    assert len(generate(engine, 3)) == 3
