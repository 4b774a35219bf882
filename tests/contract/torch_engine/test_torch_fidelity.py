"""Our forward passes against transformers': token for token, whatever joins or leaves meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fidelity import KINDS, NEW_TOKENS, SLOTS, STEP_TOKENS, Order, Pair, order, run, search
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from open_llm_server.engine.base import Batch, Draw, Row, RowError, Score, Search
from open_llm_server.errors import EngineError

pytestmark = pytest.mark.weights

TEXTS = (
    "Hello, how are you?",
    "Hello, how are you today? I have a question about soup 🍜 and about 天気.",
    "Hello, how are you today? I have a question about the weather in a city by the sea.",
    "a",
    "Translate to German: the quick brown fox jumps over the lazy dog, again and again and again",
    "one two three four five six seven eight nine ten",
)


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    kind = KINDS[request.param]
    return Pair(kind.make(tmp_path_factory.mktemp("checkpoint"), **kind.config))


def test_greedy_alone_is_what_generate_gives(pair: Pair) -> None:
    answers = set()
    for text in TEXTS:
        entry = order(pair.prompt(text))
        run(pair.engine, [entry])
        assert entry.job.output == pair.generated(entry.job.prompt)
        answers.add(tuple(entry.job.output))
    assert len(answers) > len(TEXTS) // 2, "a model that always says the same proves little"


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[str, int, int, int | None, str]]:
    """Text, tokens, when it comes, when it leaves, whose it is."""
    entry = st.tuples(
        st.sampled_from(TEXTS),
        st.integers(1, NEW_TOKENS),
        st.integers(0, 12),
        st.none() | st.integers(1, 12),
        st.sampled_from("ab"),
    )
    return draw(st.lists(entry, min_size=2, max_size=9))


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(arrivals())
def test_greedy_in_any_company_is_what_generate_gives(
    pair: Pair, wanted: list[tuple[str, int, int, int | None, str]]
) -> None:
    orders = [
        order(pair.prompt(text), max_tokens=tokens, arrives=arrives, leaves=leaves, caller=caller)
        for text, tokens, arrives, leaves, caller in wanted
    ]
    run(pair.engine, orders)
    for entry in orders:
        expected = pair.generated(entry.job.prompt, entry.job.max_tokens)
        if entry.leaves is None:
            assert entry.job.output == expected
        else:  # it may have left before its end
            assert entry.job.output == expected[: len(entry.job.output)]


def test_logprobs_are_those_of_a_plain_forward_pass(pair: Pair) -> None:
    orders = [order(pair.prompt(text), logprobs=4, arrives=i) for i, text in enumerate(TEXTS)]
    run(pair.engine, orders)
    for entry in orders:
        job = entry.job
        expected = pair.logprobs(job.prompt, job.output)
        first = 0 if pair.encodes else len(job.prompt) - 1
        for place, score in enumerate(entry.scores):
            line = expected[first + place]
            assert score is not None
            assert score.token == job.output[place]
            assert abs(score.logprob - line[score.token].item()) < 1e-4
            values, tokens = line.topk(4)
            assert [token for token, _ in score.top] == tokens.tolist()
            found = torch.tensor([value for _, value in score.top])
            assert torch.allclose(found, values, atol=1e-4)


def test_prompt_logprobs_are_those_of_a_plain_forward_pass(pair: Pair) -> None:
    if pair.encodes:
        assert pair.engine.limits.whole_prompt, "an encoder's prompt has no log-probabilities"
        return
    orders = [order(pair.prompt(text), max_tokens=2, score_prompt=True) for text in TEXTS]
    assert any(len(entry.job.prompt) > STEP_TOKENS for entry in orders), "one is cut into chunks"
    run(pair.engine, orders)
    for entry in orders:
        prompt = entry.job.prompt
        expected = pair.logprobs(prompt, [])
        assert [score.token for score in entry.prompt_scores] == list(prompt[1:])
        for place, score in enumerate(entry.prompt_scores):
            assert abs(score.logprob - expected[place, score.token].item()) < 1e-4


def test_what_was_evaluated_is_not_evaluated_again(pair: Pair) -> None:
    text = TEXTS[4]
    first = order(pair.prompt(text))
    same = order(pair.prompt(text), arrives=NEW_TOKENS + 8)
    stranger = order(pair.prompt(text), arrives=NEW_TOKENS + 8, caller="b")
    batches = run(pair.engine, [first, same, stranger])
    assert first.job.output == same.job.output == stranger.job.output
    assert same.job.cached == len(first.job.prompt) - 1
    assert stranger.job.cached == 0, "what others asked must not show in the time an answer takes"
    evaluated = sum(batch.tokens for batch in batches)
    answers = sum(len(entry.job.output) for entry in (first, same, stranger))
    assert evaluated == 2 * len(first.job.prompt) + 1 + answers - 3


def test_choices_of_one_prompt_share_its_evaluation(pair: Pair) -> None:
    prompt = pair.prompt(TEXTS[4])
    orders = [order(prompt, temperature=1.0, seed=seed) for seed in range(3)]
    batches = run(pair.engine, orders)
    assert sum(batch.tokens for batch in batches[:8]) < 2 * len(prompt) + 3 * 8
    for entry in orders:
        alone = order(prompt, temperature=1.0, seed=entry.job.draw.seed)
        run(pair.engine, [alone])
        assert alone.job.output == entry.job.output


def test_the_same_seed_draws_the_same_text_in_any_company(pair: Pair) -> None:
    def sampled(text: str, seed: int, arrives: int = 0) -> Order:
        return order(
            pair.prompt(text),
            arrives=arrives,
            temperature=0.9,
            top_k=40,
            top_p=0.95,
            repetition_penalty=1.1,
            seed=seed,
        )

    together = [sampled(text, seed, seed % 5) for seed, text in enumerate(TEXTS)]
    run(pair.engine, together)
    for seed, text in enumerate(TEXTS):
        alone = sampled(text, seed)
        run(pair.engine, [alone])
        assert alone.job.output == together[seed].job.output
    other = sampled(TEXTS[0], 77)
    run(pair.engine, [other])
    assert other.job.output != together[0].job.output


@pytest.mark.parametrize("penalty", [1.3, 2.0])
def test_the_repetition_penalty_is_that_of_generate(pair: Pair, penalty: float) -> None:
    for text in TEXTS[:3]:
        prompt = pair.prompt(text)
        # What an encoder read is no part of the text that goes on.
        counted = prompt[-1:] if pair.encodes else prompt
        entry = order(prompt, counted=counted, repetition_penalty=penalty)
        run(pair.engine, [entry])
        expected = pair.generate(
            entry.job.prompt,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            repetition_penalty=penalty,
        )[0]
        assert entry.job.output == expected


def test_beams_are_those_of_generate(pair: Pair) -> None:
    if not pair.encodes:
        assert not pair.engine.limits.whole_prompt, "the host refuses beams here"
        return
    searches = [
        search(pair.prompt(text), beams=2 + number % 2, best=1 + number % 2, arrives=2 * number)
        for number, text in enumerate(TEXTS[:4])
    ]
    beside = [order(pair.prompt(text), arrives=number) for number, text in enumerate(TEXTS)]
    run(pair.engine, [entry for entries in searches for entry in entries] + beside)
    for entries in searches:
        job = entries[0].job
        expected = pair.generate(
            job.prompt,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            num_beams=job.draw.num_beams,
            num_return_sequences=len(entries),
        )
        found = [entry.job.output for entry in entries]
        # generate fills the shorter answers up with pad or end tokens.
        assert [row[: len(own)] for row, own in zip(expected, found, strict=True)] == found
        assert all(set(row[len(own) :]) <= {0, 1} for row, own in zip(expected, found, strict=True))
    for entry in beside:
        assert entry.job.output == pair.generated(entry.job.prompt)


def test_embeddings_are_means_of_final_states(pair: Pair) -> None:
    engine, calls = pair.engine, []
    texts = [engine.tokenize(text, begin=True, control=False) for text in TEXTS]
    vectors = engine.embed(texts, between=lambda: calls.append(1))
    assert calls, "a long input lets others step"
    for tokens, vector in zip(texts, vectors, strict=True):
        with torch.inference_mode():
            if pair.encodes:
                states = pair.model.encoder(torch.tensor([[*tokens, 1]])).last_hidden_state[0]
            else:
                states = pair.model.base_model(torch.tensor([tokens])).last_hidden_state[0]
        expected = torch.nn.functional.normalize(states.mean(0), dim=0)
        assert torch.allclose(torch.tensor(vector), expected, atol=1e-5)


def test_bfloat16_and_int8_are_near(pair: Pair, tmp_path: Path) -> None:
    folder = Path(pair.model.config.name_or_path)
    prompt = pair.prompt(TEXTS[1])
    exact = pair.logprobs(prompt, [])[0 if pair.encodes else len(prompt) - 1]
    for dtype in ("bfloat16", "int8"):
        rough = Pair(folder, dtype=dtype)
        entry = order(prompt, max_tokens=1, logprobs=5)
        run(rough.engine, [entry])
        score = entry.scores[0]
        assert score is not None
        assert exact[score.token] > exact.max() - 1.0


@pytest.fixture
def encoder_decoder(tmp_path: Path) -> Pair:
    kind = KINDS["t5"]
    return Pair(kind.make(tmp_path / "checkpoint", **kind.config), slots=4)


def test_a_search_that_ended_beside_a_broken_row_gives_its_result_again(
    encoder_decoder: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, prompt = encoder_decoder.engine, encoder_decoder.prompt(TEXTS[0])
    rows = [
        Row(first, prompt, 0, draw=Draw(num_beams=2), search=Search((first, first + 1), 1, limit))
        for first, limit in ((0, 2), (2, 5))
    ]
    engine.step(Batch(rows=rows))
    logits = engine._network.logits

    def broken(states: torch.Tensor) -> torch.Tensor:
        return logits(states).index_fill(0, torch.tensor([2, 3]), torch.nan)

    rows = [replace(row, tokens=(), start=len(prompt)) for row in rows]
    with monkeypatch.context() as patched:
        patched.setattr(engine._network, "logits", broken)
        with pytest.raises(RowError) as bad:
            engine.step(Batch(rows=rows))
    assert bad.value.slot == 2
    (outcome,) = engine.step(Batch(rows=rows[:1]))
    (found,) = outcome.found
    expected = encoder_decoder.generate(prompt, max_new_tokens=2, do_sample=False, num_beams=2)
    assert list(found.tokens) == expected[0]


def test_a_row_that_cannot_be_scored_leaves_its_neighbours_seed_alone(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pair.encodes:
        assert pair.engine.limits.whole_prompt, "no prompt of an encoder is scored"
        return
    engine, prompt = pair.engine, pair.prompt(TEXTS[0])
    draw = replace(Draw(prompt=prompt), temperature=2.0, seed=3)
    for slot in range(SLOTS):
        engine.forget(slot)
    rows = [
        Row(0, prompt, 0, draw=draw),
        Row(1, prompt, 0, targets=prompt[1:]),
    ]
    before = engine.step(Batch(rows=rows[:1]))[0].token
    engine.forget(0)
    real = engine._score

    def score(row: Row, states: torch.Tensor, first: int) -> list[Score]:
        return real(row, states * torch.nan, first)

    with monkeypatch.context() as patched:
        patched.setattr(engine, "_score", score)
        with pytest.raises(RowError):
            engine.step(Batch(rows=rows))
    trims = [(row.slot, 0) for row in rows]
    assert engine.step(Batch(trims=trims, rows=rows[:1]))[0].token == before


def test_an_embedding_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    kind = KINDS["bloom"]
    pair = Pair(kind.make(tmp_path / "checkpoint", **kind.config))
    norm = pair.engine._network._model.norm  # type: ignore[attr-defined]  # the real one's
    object.__setattr__(
        pair.engine._network._model,  # type: ignore[attr-defined]  # the real one's
        "norm",
        lambda states: norm(states) * torch.nan,
    )
    with pytest.raises(EngineError, match="not a number"):
        pair.engine.embed([pair.prompt(TEXTS[0])])
