"""From values to tasks: what each choice draws with, and when a beam search can be had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hosting import ask, chat, failure, hosting

from open_llm_server.config.schema import ModelConfig
from open_llm_server.core import CompletionRequest, Request, Sampling
from open_llm_server.engine.base import Limits
from open_llm_server.engine.ticket import Task
from open_llm_server.errors import InvalidField
from open_llm_server.generation import Prompt, Settings, check_beams, tasks_for

DEFAULTS = Settings.of(ModelConfig())
ENCODER = Limits(
    context_length=64,
    slots=4,
    batch_tokens=64,
    vocabulary=300,
    end_tokens=frozenset({256}),
    whole_prompt=True,
)


def tasks(prompts: int = 1, choices: int = 3, **sampling: Any) -> list[Task]:
    return tasks_for(
        [Prompt("x", [number, 1]) for number in range(prompts)],
        settings=DEFAULTS.override(Sampling(**sampling)),
        stop=(),
        choices=choices,
        logprobs=None,
        score_prompt=False,
        context_length=64,
        caller="",
        deadline=None,
    )


def test_choices_draw_apart() -> None:
    draws = [task.job.draw for task in tasks(seed=2**63 - 2)]
    assert [draw.seed for draw in draws] == [2**63 - 2, 2**63 - 1, 0]
    assert {draw.num_beams for draw in draws} == {1}
    assert {draw.temperature for draw in draws} == {0.8}


def test_the_choices_of_one_search_share_its_draw() -> None:
    made = tasks(prompts=2, num_beams=4)
    assert [task.index for task in made] == list(range(6))
    one, other = made[0].job.draw, made[3].job.draw
    assert all(task.job.draw is one for task in made[:3])
    assert all(task.job.draw is other for task in made[3:])
    assert one is not other
    assert (one.num_beams, list(one.prompt), list(other.prompt)) == (4, [0, 1], [1, 1])


def test_the_width_is_configured_and_asked_for() -> None:
    wide = Settings.of(ModelConfig(num_beams=3))
    assert wide.override(Sampling()).num_beams == 3
    assert wide.override(Sampling(num_beams=1)).num_beams == 1
    assert DEFAULTS.num_beams == 1
    assert DEFAULTS.echo()["num_beams"] == 1


@pytest.mark.parametrize(
    ("limits", "asked", "param", "words"),
    [
        (replace(ENCODER, whole_prompt=False), {}, "num_beams", "encoder-decoder.*flan-t5"),
        (ENCODER, {"slots": 3}, "num_beams", "has 3; .*--slots 4"),
        (ENCODER, {"choices": 5, "slots": 9}, "n", "4 texts at most"),
        (ENCODER, {"logprobs": 0}, "logprobs", "num_beams to 1"),
    ],
)
def test_searches_that_cannot_be_had(
    limits: Limits, asked: dict[str, Any], param: str, words: str
) -> None:
    fields: dict[str, Any] = {"slots": 4, "choices": 4, "logprobs": None} | asked
    with pytest.raises(InvalidField, match=words) as refused:
        check_beams(replace(DEFAULTS, num_beams=4), limits, **fields)
    assert refused.value.param == param
    check_beams(DEFAULTS, limits, **fields)


def test_searches_that_can_be_had() -> None:
    for beams, choices in ((2, 1), (4, 4), (1, 128)):
        settings = replace(DEFAULTS, num_beams=beams)
        check_beams(settings, ENCODER, slots=4, choices=choices, logprobs=None)


@pytest.mark.parametrize(
    "asked", [chat, lambda text, **kw: CompletionRequest(prompts=(text,), **kw)]
)
async def test_a_host_refuses_them(asked: Callable[..., Request]) -> None:
    async with hosting() as host:
        error = failure(await ask(host, asked("x", sampling=Sampling(num_beams=2))))
    assert (error["code"], error["param"]) == ("invalid_value", "num_beams")
