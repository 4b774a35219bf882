"""What tests of choosing tokens draw from, and the penalties of transformers and OpenAI."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from open_llm_server.engine.base import Draw, Score

CPU = torch.device("cpu")

shares = st.floats(0.01, 0.99)
draws = st.builds(
    Draw,
    temperature=st.sampled_from([0.0, 0.3, 0.8, 1.0, 1.0, 1.7]),
    top_k=st.sampled_from([0, 0, 1, 3, 40, 150, 2500]),
    top_p=st.one_of(st.just(1.0), shares),
    min_p=st.one_of(st.just(0.0), shares.map(lambda share: share / 4)),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.7, -0.4]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.5, -1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.8]),
    seed=st.integers(-(2**63), 2**63 - 1),
    prompt=st.lists(st.integers(0, 6), max_size=9),
)


def logits(rows: int, size: int, seed: int, *, coarse: bool = False, scale: float = 3.0) -> Tensor:
    """Random ones; `coarse`: with so few digits that many are equal."""
    made = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * scale
    return made.mul(4).round().div(4) if coarse else made


def penalised(row: Tensor, draw: Draw, chosen: Sequence[int]) -> Tensor:
    """One row [1, V] after transformers' repetition penalty and OpenAI's two, in plain numpy."""
    seen = torch.tensor([[*draw.prompt, *chosen]], dtype=torch.int64)
    if seen.numel():
        row = RepetitionPenaltyLogitsProcessor(draw.repetition_penalty)(seen, row)
    plain = row.numpy().copy()
    for token in set(chosen):
        plain[0, token] -= draw.frequency_penalty * chosen.count(token) + draw.presence_penalty
    return torch.from_numpy(plain)


def true_score(row: Tensor, token: int, top: int) -> Score:
    exact = row.double().log_softmax(0)
    best = sorted(range(len(row)), key=lambda place: (-float(row[place]), place))[:top]
    return Score(token, float(exact[token]), [(place, float(exact[place])) for place in best])


def assert_scores(found: Score, wanted: Score) -> None:
    assert found.token == wanted.token and isinstance(found.logprob, float)
    assert [token for token, _ in found.top] == [token for token, _ in wanted.top]
    for ours, theirs in zip(
        [found.logprob, *dict(found.top).values()],
        [wanted.logprob, *dict(wanted.top).values()],
        strict=True,
    ):
        assert ours == theirs or abs(ours - theirs) < 2e-5
