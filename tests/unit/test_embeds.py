"""Which inputs are embedded together, and that each vector reaches its own request."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from open_llm_server.engine.embeds import Embeds
from open_llm_server.engine.ticket import Ticket


async def tickets(*inputs: Sequence[Sequence[int]]) -> tuple[Embeds, list[Ticket]]:
    embeds, made = Embeds(), [Ticket(caller="", inputs=list(own)) for own in inputs]
    for ticket in made:
        embeds.add(ticket)
    return embeds, made


async def test_requests_that_wait_are_computed_together() -> None:
    embeds, (one, two, three) = await tickets([[1], [2]], [[3]], [[4, 4]])
    helping = embeds.helping(100)
    assert helping == [(one, [1]), (two, [3]), (three, [4, 4]), (one, [2])]
    done = embeds.take_in(helping, [[float(tokens[0])] for _, tokens in helping])
    assert set(done) == {one, two, three}
    assert [one.vectors, two.vectors, three.vectors] == [[(1.0,), (2.0,)], [(3.0,)], [(4.0,)]]
    assert not embeds


async def test_a_long_list_holds_nobody_up() -> None:
    embeds, (long, short) = await tickets([[number] for number in range(50)], [[7]])
    helping = embeds.helping(3)
    assert [ticket for ticket, _ in helping] == [long, short, long]
    assert embeds.take_in(helping, [[0.0]] * 3) == [short]
    assert [tokens for _, tokens in embeds.helping(2)] == [[2], [3]]


async def test_an_input_beyond_the_budget_is_computed_by_itself() -> None:
    embeds, (large, small) = await tickets([[0] * 9], [[1]])
    assert embeds.helping(4) == [(large, [0] * 9)]
    embeds.take_in([(large, [0] * 9)], [[0.0]])
    assert embeds.helping(4) == [(small, [1])]


async def test_what_a_left_ticket_had_is_dropped() -> None:
    embeds, (gone, stays) = await tickets([[1]], [[2]])
    helping = embeds.helping(10)
    embeds.remove(gone)
    gone.left = 0
    assert embeds.take_in(helping, [[1.0], [2.0]]) == [stays]
    assert (gone.vectors, stays.vectors) == ([], [(2.0,)])


async def test_after_a_fault_each_is_computed_apart() -> None:
    embeds, (one, two) = await tickets([[1]], [[2]])
    embeds.separate(embeds.helping(10))
    assert embeds.helping(10) == [(one, [1])]
    embeds.remove(one)
    assert embeds.helping(10) == [(two, [2])]


@given(
    st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=6), min_size=1, max_size=6),
    st.integers(1, 12),
)
async def test_every_input_is_computed_once_and_in_order(
    lengths: list[list[int]], budget: int
) -> None:
    inputs = [
        [[100 * row + place] * length for place, length in enumerate(own)]
        for row, own in enumerate(lengths)
    ]
    embeds, made = await tickets(*inputs)
    done = []
    while embeds:
        helping = embeds.helping(budget)
        assert len(helping) == 1 or sum(len(tokens) for _, tokens in helping) <= budget
        done += embeds.take_in(helping, [[float(tokens[0])] for _, tokens in helping])
    assert sorted(map(id, done)) == sorted(map(id, made))
    for ticket, own in zip(made, inputs, strict=True):
        assert ticket.vectors == [(float(tokens[0]),) for tokens in own]
