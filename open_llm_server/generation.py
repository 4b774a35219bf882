"""From what was configured and what was asked to one scheduler job per sequence. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from .core import SAMPLING_FIELDS, Sampling
from .engine.base import Draw, Limits
from .engine.job import Job
from .engine.text import TextAssembler
from .engine.ticket import Task
from .errors import InvalidField


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt in tokens. `text` is what an echo gives back; `None`: spell the tokens."""

    text: str | None
    tokens: Sequence[int]
    skip: int = 0
    """How many of the tokens are the operator's and no part of an echo."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Generation values, all of them set. `max_tokens` `None`: to the end of the context.

    `seed` `None`: a new one for each request. `num_beams` 1: tokens are drawn, without a search.
    `prompt` is the operator's pre-prompt.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    max_tokens: int | None
    stop_sequence: tuple[str, ...]
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    seed: int | None
    num_beams: int
    prompt: str | None

    @classmethod
    def of(cls, configuration: Any) -> Settings:
        """Picks the generation values out of a family's configuration."""
        return cls(**{field.name: getattr(configuration, field.name) for field in fields(cls)})

    def override(self, sampling: Sampling) -> Settings:
        """With a request's own values in place, and a seed in every case."""
        asked = {
            name: value
            for name in SAMPLING_FIELDS
            if (value := getattr(sampling, name)) is not None
        }
        settings = replace(self, **asked)
        # 31 bits: every engine and every client can hold that.
        return (
            settings if settings.seed is not None else replace(settings, seed=secrets.randbits(31))
        )

    def echo(self) -> dict[str, Any]:
        """As JSON values, for `configuration` in answers."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"stop_sequence": list(self.stop_sequence)}


def check_beams(
    settings: Settings, limits: Limits, *, slots: int, choices: int, logprobs: int | None
) -> None:
    """Raises InvalidField where a beam search is asked for and cannot be had.

    `slots` are those that may be taken at once: each beam needs one.
    """
    beams = settings.num_beams
    if beams == 1:
        return
    if not limits.whole_prompt:
        raise InvalidField(
            "num_beams: beam search is for encoder-decoder models such as flan-t5; leave num_beams "
            "out or set it to 1",
            param="num_beams",
        )
    if beams > slots:
        raise InvalidField(
            f"num_beams: {beams} beams need as many slots, and this model has {slots}; ask for "
            f"fewer, or start the server with --slots {beams}",
            param="num_beams",
        )
    if choices > beams:
        raise InvalidField(
            f"n: a search with num_beams {beams} finds {beams} texts at most; raise num_beams to "
            f"{choices}, or ask for fewer",
            param="n",
        )
    if logprobs is not None:
        raise InvalidField(
            "logprobs: a beam search reports none; leave logprobs out, or set num_beams to 1",
            param="logprobs",
        )


def tasks_for(
    prompts: Sequence[Prompt],
    *,
    settings: Settings,
    stop: Sequence[str],
    choices: int,
    logprobs: int | None,
    score_prompt: bool,
    context_length: int,
    whole_prompt: bool = False,
    caller: str,
    deadline: float | None,
) -> list[Task]:
    """One task for each choice of each prompt, in the answer's order.

    Choice i draws with seed + i, so that a request is repeated as a whole by its seed. With
    several beams a prompt's choices are the best of one search, which the first one's job makes.
    """
    stops = tuple(dict.fromkeys((*settings.stop_sequence, *stop)))
    tasks: list[Task] = []
    for prompt in prompts:
        room = context_length - len(prompt.tokens)
        limit = room if settings.max_tokens is None else min(settings.max_tokens, room)
        search: Job | None = None
        # What an encoder read is no part of the text that goes on: its decoder's first token is.
        counted = prompt.tokens[-1:] if whole_prompt else prompt.tokens
        for draw in _draws(settings, counted, choices, logprobs):
            job = Job(
                caller=caller,
                prompt=prompt.tokens,
                draw=draw,
                max_tokens=limit,
                deadline=deadline,
                score_prompt=score_prompt,
                search=search,
            )
            if settings.num_beams > 1:
                search = search or job
            tasks.append(Task(index=len(tasks), job=job, text=TextAssembler(stops)))
    return tasks


def _draws(
    settings: Settings, prompt: Sequence[int], choices: int, logprobs: int | None
) -> list[Draw]:
    """How to choose the tokens of each of a prompt's choices."""
    assert settings.seed is not None
    first = Draw(
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        frequency_penalty=settings.frequency_penalty,
        presence_penalty=settings.presence_penalty,
        repetition_penalty=settings.repetition_penalty,
        seed=settings.seed % 2**63,
        logprobs=logprobs,
        prompt=prompt,
        num_beams=settings.num_beams,
    )
    if settings.num_beams > 1:
        return [first] * choices
    return [replace(first, seed=(first.seed + choice) % 2**63) for choice in range(choices)]
