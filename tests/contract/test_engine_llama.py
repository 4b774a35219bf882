"""What the llama.cpp engine promises to the worker, on small random weights."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from ggufs import SMALL, byte_pairs, small, write_model

from open_llm_server.engine.base import Aborted, Batch, Copy, Draw, Row, RowError
from open_llm_server.engine.llama_cpp import LlamaCppEngine
from open_llm_server.engine.llama_native import Model
from open_llm_server.engine.llama_sampling import fold_seed
from open_llm_server.engine.llama_vocab import Vocabulary
from open_llm_server.errors import ConfigurationError, ContextLengthExceeded, WeightsError

pytestmark = pytest.mark.weights

PROMPT = [1, 300, 310, 320, 330, 340, 350, 360]
BROKEN = 400
"""A token whose embedding is not a number."""


def load(path: Path, **changes: Any) -> LlamaCppEngine:
    return LlamaCppEngine.load(path, **{"context_length": 256, "slots": 4, "threads": 2, **changes})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.gguf"
    write_model(path, SMALL, broken_token=BROKEN)
    return path


@pytest.fixture(scope="module", params=[True, False], ids=["unified", "streams"])
def engine(weights: Path, request: pytest.FixtureRequest) -> Iterator[LlamaCppEngine]:
    loaded = load(weights, unified=request.param)
    yield loaded
    loaded.close()


@pytest.fixture(autouse=True)
def empty_slots(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "engine" in request.fixturenames:
        engine = request.getfixturevalue("engine")
        for slot in range(engine.limits.slots):
            engine.forget(slot)


def generate(
    engine: LlamaCppEngine,
    count: int,
    draw: Draw | None = None,
    *,
    slot: int = 0,
    prompt: Sequence[int] = PROMPT,
    start: int = 0,
) -> list[int]:
    """`count` tokens after `prompt`, of which the slot holds `start` tokens."""
    draw = draw or Draw(prompt=prompt)
    row = Row(slot, prompt[start:], start, draw)
    found: list[int] = []
    for _ in range(count):
        (outcome,) = engine.step(Batch(rows=[row]))
        assert outcome.token is not None
        found.append(outcome.token)
        row = Row(slot, [outcome.token], row.start + len(row.tokens), draw)
    return found


def logits(engine: LlamaCppEngine, tokens: Sequence[int]) -> np.ndarray[Any, Any]:
    """All log-probabilities after `tokens`, in the order of token ids."""
    engine.forget(0)
    draw = Draw(logprobs=engine.limits.vocabulary)
    (outcome,) = engine.step(Batch(rows=[Row(0, tokens, 0, draw)]))
    engine.forget(0)
    assert outcome.score
    return np.array([value for _, value in sorted(outcome.score.top)])


# -- evaluation ---------------------------------------------------------------------------


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


def test_abort_ends_a_running_step_and_leaves_no_trace(tmp_path: Path) -> None:
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

    engine._decode = decode  # type: ignore[method-assign]
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
    engine._decode = native_decode  # type: ignore[method-assign]
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


# -- choosing -----------------------------------------------------------------------------


def test_greedy_takes_the_likeliest(engine: LlamaCppEngine) -> None:
    assert generate(engine, 1)[0] == int(logits(engine, PROMPT).argmax())


def test_scores_are_those_of_the_model(engine: LlamaCppEngine) -> None:
    expected = logits(engine, PROMPT)
    assert math.isclose(np.exp(expected).sum(), 1.0, rel_tol=1e-9)
    cold = Draw(temperature=1.9, top_k=7, repetition_penalty=3.0, seed=4, logprobs=5, prompt=PROMPT)
    (outcome,) = engine.step(Batch(rows=[Row(0, PROMPT, 0, cold)]))
    assert outcome.score
    assert outcome.token == outcome.score.token
    assert math.isclose(outcome.score.logprob, expected[outcome.score.token], abs_tol=1e-6)
    best = sorted(range(len(expected)), key=lambda token: (-expected[token], token))[:5]
    assert [token for token, _ in outcome.score.top] == best


def test_targets_score_a_prompt(engine: LlamaCppEngine) -> None:
    draw = Draw(prompt=PROMPT)
    row = Row(1, PROMPT, 0, draw, targets=PROMPT[1:], top=2)
    (outcome,) = engine.step(Batch(rows=[row]))
    assert outcome.token == generate(engine, 1)[0]
    assert [score.token for score in outcome.targets] == PROMPT[1:]
    for place, score in enumerate(outcome.targets):
        expected = logits(engine, PROMPT[: place + 1])
        assert math.isclose(score.logprob, expected[score.token], abs_tol=1e-4)
        assert score.top[0][0] == int(expected.argmax())


def test_targets_may_cover_a_chunk_whole(engine: LlamaCppEngine) -> None:
    whole = engine.step(Batch(rows=[Row(1, PROMPT, 0, targets=PROMPT[1:])]))[0].targets
    first = engine.step(Batch(rows=[Row(2, PROMPT[:3], 0, targets=PROMPT[1:4])]))[0]
    last = engine.step(Batch(rows=[Row(2, PROMPT[3:], 3, targets=PROMPT[4:])]))[0]
    assert first.token is None
    found = [*first.targets, *last.targets]
    assert [score.token for score in found] == [score.token for score in whole]
    assert np.allclose([s.logprob for s in found], [s.logprob for s in whole], atol=1e-4)


def test_a_seed_repeats_its_tokens_whatever_runs_beside(engine: LlamaCppEngine) -> None:
    def drawn(seed: int) -> list[int]:
        engine.forget(0)
        return generate(engine, 16, Draw(temperature=1.5, seed=seed, prompt=PROMPT))

    alone = drawn(7)
    assert alone != drawn(8)
    engine.forget(0)
    draws = [Draw(temperature=1.5, seed=seed) for seed in (9, 7)]
    rows = [Row(0, [1, 300], 0, draws[0]), Row(1, PROMPT, 0, draws[1])]
    found = []
    for _ in range(16):
        outcomes = engine.step(Batch(rows=rows))
        found.append(outcomes[1].token)
        rows = [
            Row(row.slot, [outcome.token or 0], row.start + len(row.tokens), row.draw)
            for row, outcome in zip(rows, outcomes, strict=True)
        ]
    assert found == alone


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 2, 2**32 - 1, 2**32, -1, 2**63 - 1, -(2**63)])
def test_any_seed_repeats(engine: LlamaCppEngine, seed: int) -> None:
    found = []
    for _ in range(2):
        engine.forget(0)
        found.append(generate(engine, 12, Draw(temperature=1.9, seed=seed)))
    assert found[0] == found[1]


def test_seeds_fold_apart() -> None:
    seeds = [0, 1, -1, 2**32 - 1, 2**32, 2**40, -(2**63), 2**63 - 1]
    assert len({fold_seed(seed) for seed in seeds}) == len(seeds)
    assert all(0 <= fold_seed(seed) < 2**32 - 1 for seed in seeds)


def test_cuts_keep_the_draw_within_the_likeliest(engine: LlamaCppEngine) -> None:
    expected = logits(engine, PROMPT)
    order = [int(token) for token in np.argsort(-expected)]

    def drawn(**values: Any) -> set[int]:
        found = set()
        for seed in range(24):
            engine.forget(0)
            found |= set(generate(engine, 1, Draw(temperature=2.0, seed=seed, **values)))
        return found

    assert drawn(top_k=1) == {order[0]}
    assert drawn(top_p=0.0) == {order[0]}
    assert drawn(min_p=1.0) == {order[0]}
    assert drawn(top_k=3) <= set(order[:3])
    assert len(drawn()) > 3


def test_penalties_do_what_their_formulas_say(engine: LlamaCppEngine) -> None:
    """Greedy choices under penalties, recomputed from the model's log-probabilities.

    Repetition divides logits, which log-probabilities only tell up to a constant; frequency and
    presence subtract, so they can be checked exactly.
    """
    draw = Draw(frequency_penalty=0.7, presence_penalty=0.4, prompt=PROMPT)
    found = generate(engine, 20, draw)
    counts: dict[int, int] = {}
    for place, token in enumerate(found):
        scores = logits(engine, [*PROMPT, *found[:place]])
        for seen, count in counts.items():
            scores[seen] -= 0.7 * count + 0.4
        assert token == int(scores.argmax())
        counts[token] = counts.get(token, 0) + 1
    assert len(set(found)) > len(set(generate(engine, 20, slot=1)))


def test_repetition_penalty_knows_the_prompt(engine: LlamaCppEngine) -> None:
    first = generate(engine, 1)[0]
    engine.forget(0)
    prompt = [*PROMPT[:-1], first, PROMPT[-1]]
    plain = generate(engine, 30, prompt=prompt)
    engine.forget(0)
    strict = generate(engine, 30, Draw(repetition_penalty=10.0, prompt=prompt), prompt=prompt)
    assert not set(strict) & set(prompt)
    assert len(set(strict)) == len(strict)
    assert len(set(plain)) < len(plain)


def test_extreme_values_choose_a_token(engine: LlamaCppEngine) -> None:
    for draw in (
        Draw(temperature=1e-300, seed=1),
        Draw(temperature=2.0, repetition_penalty=0.01, prompt=PROMPT),
        Draw(temperature=2.0, frequency_penalty=-2.0, presence_penalty=2.0),
        Draw(temperature=2.0, top_k=1_000_000, top_p=1e-30, min_p=1e-30),
    ):
        engine.forget(0)
        assert len(generate(engine, 4, draw)) == 4


# -- text ---------------------------------------------------------------------------------


def test_text_becomes_tokens_and_comes_back(engine: LlamaCppEngine) -> None:
    text = "Hello, na\u00efve \u6f22\u5b57 \U0001f600!\n"
    tokens = engine.tokenize(text, begin=True, control=False)
    assert tokens[0] == 1
    assert b"".join(map(engine.piece, tokens)).decode() == " " + text
    assert engine.tokenize("", begin=False, control=False) == []


def test_control_tokens_only_on_demand(engine: LlamaCppEngine) -> None:
    assert engine.control_texts == {"<unk>", "<s>", "</s>"}
    assert engine.tokenize("</s>", begin=False, control=True) == [2]
    plain = engine.tokenize("</s>", begin=False, control=False)
    assert 2 not in plain
    assert b"".join(map(engine.piece, plain)) == b" </s>"
    assert engine.piece(2) == b""
    assert (engine.begin_text, engine.end_text) == ("<s>", "</s>")
    assert engine.limits.end_tokens == {2}
    assert engine.chat_template


def test_a_text_that_cannot_fit_is_refused_unread(engine: LlamaCppEngine) -> None:
    with pytest.raises(ContextLengthExceeded) as refused:
        engine.tokenize("word " * 1_000_000, begin=True, control=False)
    assert refused.value.extra["n_ctx"] == engine.limits.context_length
    with pytest.raises(ValueError, match="surrogates"):
        engine.tokenize("\ud800", begin=True, control=False)


HOSTILE = """
import sys
from pathlib import Path
from open_llm_server.engine.llama_native import Model
from open_llm_server.engine.llama_vocab import Vocabulary
words = Vocabulary(Model(Path(sys.argv[1]), gpu_layers=0), context_length=1_000_000)
for text in ["A", "a", ".", " ", "\\n", "Z", "\u00e9", "\u6f22", "1", "_", "\u0301", "'", "\t"]:
    tokens = words.tokenize(text * 200_000, begin=True, control=False)
    back = b"".join(map(words.piece, tokens)).decode()
    assert back in (text * 200_000, " " + text * 200_000), text
"""


@pytest.mark.parametrize(
    "kind", ["", "default", "gpt-2", "llama-bpe", "qwen2", "gpt-4o", "deepseek-v3", "tekken"]
)
def test_equal_letters_do_not_end_the_process(tmp_path: Path, kind: str) -> None:
    """llama.cpp's own tokenizer overflows its stack on some 26,000 of them."""
    path = tmp_path / "words.gguf"
    add: Any = byte_pairs(kind) if kind else None
    write_model(path, SMALL, add_vocabulary=add)
    ended = subprocess.run(
        [sys.executable, "-c", HOSTILE, path], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


@pytest.mark.parametrize("kind", ["", "llama-bpe"])
def test_cuts_leave_ordinary_text_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "words.gguf"
    add: Any = byte_pairs(kind) if kind else None
    write_model(path, SMALL, add_vocabulary=add)
    words = Vocabulary(Model(path, gpu_layers=0), context_length=100_000)
    text = "The tea is  hot, na\u00efve\n\n \u6f22\u5b57 AAAA <s> nothing else </s> " * 400
    for control in (False, True):
        whole = words._tokens(text.encode(), True, control)
        assert words.tokenize(text, begin=True, control=control) == whole


# -- embeddings ---------------------------------------------------------------------------


def test_embeddings_are_unit_vectors_that_touch_no_slot(engine: LlamaCppEngine) -> None:
    expected = generate(engine, 4)
    engine.forget(0)
    generate(engine, 2)
    one, two, again = engine.embed([PROMPT, [1, 333], PROMPT])
    assert len(one) == engine.limits.embedding_size
    assert math.isclose(math.hypot(*one), 1.0, rel_tol=1e-9)
    assert one == again == engine.embed([PROMPT])[0]
    assert one != two
    tokens = [*PROMPT, *expected[:2]]
    assert generate(engine, 2, prompt=tokens, start=len(tokens) - 1) == expected[2:]


def test_a_long_input_is_embedded_whole(weights: Path) -> None:
    engine = load(weights, context_length=512)
    tokens = [1, *range(259, 400)] * 3
    chunked = engine.embed([tokens])[0]
    states = []
    for end in range(1, len(tokens) + 1, 50):
        states.append(engine.embed([tokens[:end]])[0])
    assert len({tuple(state) for state in states}) == len(states)
    assert math.isclose(math.hypot(*chunked), 1.0, rel_tol=1e-9)
    with pytest.raises(ContextLengthExceeded):
        engine.embed([[300] * 513])
    engine.close()


# -- loading ------------------------------------------------------------------------------


def test_what_cannot_be_loaded_names_a_way_out(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--slots"):
        load(weights, slots=1000)
    with pytest.raises(ConfigurationError, match="--context-length"):
        load(weights, context_length=16_000_000, slots=200)
    with pytest.raises(ConfigurationError, match="--device cpu"):
        load(weights, gpu_layers=-1)
    foreign = tmp_path / "foreign.gguf"
    write_model(foreign, SMALL, architecture="no-such-architecture")
    with pytest.raises(WeightsError, match="no-such-architecture"):
        load(foreign)
    with pytest.raises(WeightsError, match="LoRA"):
        load(weights, lora=[weights])


def test_an_adapter_is_laid_over_the_weights(weights: Path, tmp_path: Path) -> None:
    def adapter(name: str, size: float) -> Path:
        path = tmp_path / name
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 4.0)
        random = np.random.default_rng(0)
        for half, shape in (("lora_a", (4, SMALL.width)), ("lora_b", (SMALL.width, 4))):
            values = size * random.standard_normal(shape, dtype=np.float32)
            writer.add_tensor(f"blk.0.attn_v.weight.{half}", values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    found = []
    for lora in ([], [adapter("none.gguf", 0.0)], [adapter("some.gguf", 1.0)]):
        engine = load(weights, lora=lora)
        found.append(logits(engine, PROMPT))
        engine.close()
    plain, unchanged, changed = found
    assert np.array_equal(plain, unchanged)
    assert np.abs(plain - changed).max() > 0.01


def test_the_models_own_context_is_the_default(weights: Path) -> None:
    engine = load(weights, context_length=None)
    assert engine.limits.context_length == SMALL.context_length
    engine.close()
    engine.close()  # harmless
