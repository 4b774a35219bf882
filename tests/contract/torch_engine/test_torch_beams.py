"""Beam search over a small random T5: its answers and their scores are those of `generate`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from open_llm_server.engine.base import Draw, Hypothesis
from open_llm_server.engine.torch_beams import Advance, BeamSearch

pytestmark = pytest.mark.weights

# Typed only in part: as Any, the calls below need no excuses.
T5: Any = transformers.T5ForConditionalGeneration
T5_CONFIG: Any = transformers.T5Config

VOCABULARY, PAD, END, OTHER_END = 61, 0, 1, 7
PROMPT = (11, 12, 13, 14, 15, END)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices as small as these are slower on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def model(ends: float) -> Any:
    """`ends`: how much heavier the end tokens' weights are, and so how often they come.

    In float64, so that no two candidates change places by how a batch was computed.
    """
    config = T5_CONFIG(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=PAD,
        pad_token_id=PAD,
        eos_token_id=END,
        dropout_rate=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = T5(config).double().eval()
        with torch.no_grad():
            for weight in made.parameters():
                if weight.dim() > 1:
                    weight.normal_(0.0, 0.3)
            made.lm_head.weight.normal_(0.0, 0.35)
            made.lm_head.weight[[END, OTHER_END]] *= ends
            # Nobody can tell a chosen pad token from what `generate` fills its answers up with.
            made.lm_head.weight[PAD] = 0.0
    return made


def logits_of(
    reference: Any,
    prompt: Sequence[int],
    outputs: Sequence[Sequence[int]],
) -> torch.Tensor:
    """The logits [n, V] after each of `outputs`, by a pass over the whole of it."""
    decoded = torch.tensor([[PAD, *output] for output in outputs])
    read = torch.tensor([prompt] * len(outputs))
    with torch.no_grad():
        logits: torch.Tensor = reference(input_ids=read, decoder_input_ids=decoded).logits
    return logits[:, -1].float()


def search(
    reference: Any,
    prompt: Sequence[int] = PROMPT,
    *,
    beams: int,
    best: int,
    ends: Sequence[int] = (END,),
    max_tokens: int = 12,
    draw: Draw | None = None,
    **options: Any,
) -> list[Hypothesis]:
    """Runs a search as an engine does: a row of tokens for each beam, reordered by its parents."""
    searched = BeamSearch(
        beams=beams,
        best=best,
        end_tokens=frozenset(ends),
        max_tokens=max_tokens,
        vocabulary=VOCABULARY,
        start=(PAD,),
        draw=draw or Draw(),
        **options,
    )
    rows: list[list[int]] = [[]]
    while step := searched.advance(logits_of(reference, prompt, rows)):
        rows = [
            [*rows[parent], token] for parent, token in zip(step.parents, step.tokens, strict=True)
        ]
        assert rows == [list(output) for output in searched.outputs]
        assert not searched.over
    assert searched.over
    return searched.best()


def generated(
    reference: Any,
    prompt: Sequence[int] = PROMPT,
    *,
    beams: int,
    best: int,
    ends: Sequence[int] = (END,),
    max_tokens: int = 12,
    **options: Any,
) -> tuple[list[tuple[int, ...]], list[float]]:
    """What transformers gives: sequences without start and filling, and their scores."""
    with torch.no_grad():
        answer = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            num_beams=beams,
            num_return_sequences=best,
            eos_token_id=list(ends) or None,
            max_new_tokens=max_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
    return (
        [unfilled(row[1:], ends) for row in answer.sequences.tolist()],
        answer.sequences_scores.tolist(),
    )


def unfilled(row: Sequence[int], ends: Sequence[int]) -> tuple[int, ...]:
    """Up to the first end token, or without the pads at its right."""
    for place, token in enumerate(row):
        if token in ends:
            return tuple(row[: place + 1])
    kept = len(row)
    while kept and row[kept - 1] == PAD:
        kept -= 1
    return tuple(row[:kept])


def assert_equal(
    found: Sequence[Hypothesis],
    wanted: tuple[list[tuple[int, ...]], list[float]],
    ends: Any = (END,),
) -> None:
    tokens, scores = wanted
    assert [one.tokens for one in found] == tokens
    assert [one.score for one in found] == pytest.approx(scores, abs=1e-5)
    assert [one.ended for one in found] == [row[-1] in ends for row in tokens]


@pytest.mark.parametrize(("beams", "best"), [(k, n) for k in range(2, 6) for n in range(1, k + 1)])
def test_the_best_of_every_width_are_those_of_generate(beams: int, best: int) -> None:
    asked: dict[str, Any] = {"beams": beams, "best": best}
    assert_equal(search(model(1.5), **asked), generated(model(1.5), **asked))


@pytest.mark.parametrize("ends", [(), (END,), (END, OTHER_END)])
@pytest.mark.parametrize("weight", [1.0, 1.5, 2.0])
def test_no_end_token_one_and_two(ends: tuple[int, ...], weight: float) -> None:
    asked: dict[str, Any] = {"beams": 5, "best": 5, "ends": ends}
    assert_equal(search(model(weight), **asked), generated(model(weight), **asked), ends)


def test_answers_end_both_ways() -> None:
    found = search(model(2.0), beams=5, best=5, max_tokens=4)
    assert {one.ended for one in found} == {True, False}
    assert all(len(one.tokens) == 4 for one in found if not one.ended)


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 30])
def test_the_greatest_length_ends_a_search(max_tokens: int) -> None:
    for weight in (1.0, 2.0):
        asked: dict[str, Any] = {"beams": 4, "best": 3, "max_tokens": max_tokens}
        assert_equal(search(model(weight), **asked), generated(model(weight), **asked))


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_length_penalty_and_early_stopping(length_penalty: float, early_stopping: bool) -> None:
    for weight in (1.0, 2.0):
        asked: dict[str, Any] = {
            "beams": 3,
            "best": 3,
            "length_penalty": length_penalty,
            "early_stopping": early_stopping,
        }
        assert_equal(search(model(weight), **asked), generated(model(weight), **asked))


@pytest.mark.parametrize("penalty", [0.7, 1.3, 2.5])
def test_repetition_penalty_counts_start_and_answer(penalty: float) -> None:
    for weight in (1.0, 2.0):
        # The prompt that was read is none of the decoder's: it must not count.
        draw = Draw(repetition_penalty=penalty, prompt=(*range(8, 40), PAD))
        found = search(model(weight), beams=4, best=4, draw=draw)
        wanted = generated(model(weight), beams=4, best=4, repetition_penalty=penalty)
        assert_equal(found, wanted)
    plain = search(model(1.0), beams=4, best=4)
    assert plain != search(model(1.0), beams=4, best=4, draw=Draw(repetition_penalty=penalty))


def test_other_penalties_act_on_the_answer_and_temperature_does_not() -> None:
    plain = search(model(1.0), beams=3, best=3)
    warm = Draw(temperature=1.5, top_k=1, top_p=0.1, min_p=0.9, seed=3)
    assert search(model(1.0), beams=3, best=3, draw=warm) == plain
    repeated = max(len(one.tokens) - len(set(one.tokens)) for one in plain)
    firm = search(model(1.0), beams=3, best=3, draw=Draw(presence_penalty=50.0))
    assert repeated and all(len(one.tokens) == len(set(one.tokens)) for one in firm)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_search_is_that_of_generate(data: st.DataObject) -> None:
    beams = data.draw(st.integers(2, 5))
    weight = data.draw(st.sampled_from([1.0, 1.5, 2.0]))
    ends = data.draw(st.sampled_from([(END,), (END, OTHER_END), (END, 20, 30), ()]))
    prompt = data.draw(st.lists(st.integers(8, VOCABULARY - 1), min_size=1, max_size=6))
    penalty = data.draw(st.sampled_from([1.0, 1.0, 1.2]))
    asked: dict[str, Any] = {
        "beams": beams,
        "best": data.draw(st.integers(1, beams)),
        "ends": ends,
        "max_tokens": data.draw(st.integers(1, 10)),
        "length_penalty": data.draw(st.sampled_from([1.0, 0.5, -0.5])),
        "early_stopping": data.draw(st.booleans()),
    }
    found = search(model(weight), prompt, draw=Draw(repetition_penalty=penalty), **asked)
    wanted = generated(model(weight), prompt, repetition_penalty=penalty, **asked)
    assert_equal(found, wanted, ends)


def test_searches_do_not_share_anything() -> None:
    """Two callers' searches, driven step by step in one batch, find what each finds alone."""
    reference = model(2.0)
    prompts = [(11, 12, 13, END), (40, 41, 42, END)]
    alone = [search(reference, prompt, beams=3, best=3) for prompt in prompts]
    running = [
        BeamSearch(
            beams=3,
            best=3,
            end_tokens=frozenset({END}),
            max_tokens=12,
            vocabulary=VOCABULARY,
            start=(PAD,),
            draw=Draw(),
        )
        for _ in prompts
    ]
    begun = [False, False]
    while not all(one.over for one in running):
        for index, (one, prompt) in enumerate(zip(running, prompts, strict=True)):
            if not one.over:
                rows = one.outputs if begun[index] else [()]
                one.advance(logits_of(reference, prompt, rows))
                begun[index] = True
    assert [one.best() for one in running] == alone


def a_search(**options: Any) -> BeamSearch:
    values: dict[str, Any] = {
        "beams": 2,
        "best": 1,
        "end_tokens": frozenset({END}),
        "max_tokens": 3,
        "vocabulary": 5,
        "start": (PAD,),
        "draw": Draw(),
    }
    return BeamSearch(**values | options)


@pytest.mark.parametrize("options", [{"best": 3}, {"best": 0}, {"max_tokens": 0}])
def test_what_cannot_be_searched_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="beam"):
        a_search(**options)


def test_logits_of_another_shape_are_refused() -> None:
    searched = a_search(max_tokens=2)
    with pytest.raises(ValueError, match=r"\(1, 5\)"):
        searched.advance(torch.zeros(2, 5))
    assert searched.advance(torch.arange(5.0)[None])
    with pytest.raises(ValueError, match=r"\(2, 5\)"):
        searched.advance(torch.zeros(1, 5))
    assert searched.advance(torch.zeros(2, 5)) is None
    with pytest.raises(ValueError, match="over"):
        searched.advance(torch.zeros(2, 5))


def test_as_many_beams_go_on_where_many_candidates_end() -> None:
    searched = a_search(end_tokens=frozenset({END, 2, 3}), vocabulary=12, max_tokens=9)
    logits = torch.zeros(12)
    logits[4], logits[[END, 2, 3]], logits[5] = 6.0, 5.0, 1.0
    assert searched.advance(logits[None]) == Advance([4, 5], [0, 0])
    # Of the candidates that end, the one among the two likeliest is complete.
    assert len(searched.best()) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(bad: float) -> None:
    searched = a_search()
    assert searched.advance(torch.arange(5.0)[None])
    logits = torch.arange(10.0).view(2, 5)
    logits[1, 3] = bad
    with pytest.raises(ArithmeticError, match="not a number"):
        searched.advance(logits)
    logits[1] = float("-inf")
    logits[1, 2] = 1.0
    assert searched.advance(logits)


def test_a_vocabulary_smaller_than_the_beams() -> None:
    searched = a_search(beams=8, best=8, vocabulary=3, max_tokens=4)
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    while step := searched.advance(logits):
        assert len(step.tokens) == len(step.parents) == 8
        logits = torch.tensor([[0.0, 1.0, 2.0]] * 8)
    found = searched.best()
    assert len(found) == 8
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
