"""LLMRunnable: what a model family is, and how one of its models becomes a BentoML Runnable.

A family is a plain class that says only what is special about it. BentoML, and whatever engine
the family uses, are imported when a model is loaded, not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from .config.cards import Card, cards
from .config.schema import ModelConfig
from .config.weights import WeightsKind
from .core import Message
from .errors import (
    ConfigurationError,
    ContextLengthExceeded,
    InvalidField,
)

if TYPE_CHECKING:
    from .config.resolved import ModelPlan
    from .engine.base import Engine
    from .engine.prompts import PromptFormat
    from .generation import Settings
    from .host import Host
    from .runner import LLMRunner

log = logging.getLogger(__name__)
Made = TypeVar("Made")


class LLMRunnable:
    """A family of models. Subclasses set the class variables and define `open_engine`."""

    name: ClassVar[str]
    """As on the command line; set by `Registry.add_model`."""
    engine: ClassVar[str]
    """What computes, for people: `llama.cpp`, `torch`, …"""
    weights: ClassVar[WeightsKind] = "gguf"
    """What a source must hold: one GGUF file, a checkpoint's folder, or nothing at all."""
    Config: ClassVar[type[ModelConfig]] = ModelConfig
    """The settings of the family, with its own fields added."""

    @classmethod
    def get_runner(cls, model: str | None = None, **config: Any) -> LLMRunner:
        """A BentoML runner for one model of this family, for `bentoml.legacy.Service(runners=[…])`.

        `model` names it as on the command line (default: the family's own card); `config` are
        fields of `Config`. Unknown ones raise ConfigurationError (a ValueError).
        """
        from .runner import get_runner

        return get_runner(cls.name, model, **config)

    @classmethod
    def engine_of(cls, config: Mapping[str, Any]) -> str:
        """What computes under these settings, where a family has a choice."""
        return cls.engine

    @classmethod
    def weights_of(cls, config: Mapping[str, Any]) -> WeightsKind:
        """What a source must hold under these settings."""
        return cls.weights

    @classmethod
    def source_of(cls, config: Mapping[str, Any], card: Card | None) -> str | None:
        """SOURCE of the weights where the person names none."""
        return card.source if card else None

    @classmethod
    def check_installed(cls, plan: ModelPlan) -> None:
        """Raises StartError where a package is not installed that this model is computed with.

        Imports none of them and looks at no weights, which may have yet to be imported.
        """

    @classmethod
    def check_weights(cls, plan: ModelPlan) -> None:
        """Raises StartError for weights that cannot be loaded, before any process starts.

        Looks at headers and small files, and imports no engine's library.
        """

    @classmethod
    def open_engine(cls, plan: ModelPlan, config: Any, *, pinned_slots: int) -> Engine:
        """Loads the weights. `pinned_slots` more slots than `config.slots` are wanted."""
        raise NotImplementedError(f"family {cls.name} defines no open_engine")

    @classmethod
    async def load(cls, plan: ModelPlan, *, on_crash: Callable[[BaseException], None]) -> Host:
        """Loads the model and starts its worker. Raises StartError with the way out."""
        from .engine.fit_sizes import PINNED_SLOTS
        from .generation import Settings
        from .host import Host, Identity

        config = cls.Config.model_validate(plan.config)
        settings = Settings.of(config)
        card = cards().get(plan.card) if plan.card else None
        pinned_slots = PINNED_SLOTS if settings.prompt else 0
        engine = await _in_own_thread(
            lambda: cls.open_engine(plan, config, pinned_slots=pinned_slots)
        )
        try:
            _check_search(settings, engine, slots=config.slots)
            prompts, stop = await cls._prompt_format(engine, card)
            pins = await _preprompt_tokens(engine, prompts, settings.prompt)
            worker = await _in_own_thread(lambda: _start_worker(engine, config, pins, on_crash))
        except BaseException:
            engine.close()
            raise
        return Host(
            engine=engine,
            worker=worker,
            prompts=prompts,
            settings=settings,
            identity=Identity(
                name=plan.name,
                family=cls.name,
                card=plan.card,
                source=plan.source.label if plan.source else "built in",
                engine=cls.engine_of(plan.config),
                stop=(*stop, *(card.stop if card else ())),
                facts={"device": plan.device, "threads": plan.threads},
            ),
        )

    @classmethod
    async def _prompt_format(
        cls, engine: Engine, card: Card | None
    ) -> tuple[PromptFormat, tuple[str, ...]]:
        """The card's format, else that of the weights, else the card's or family's plain one.

        With the texts that end an answer in this format.
        """
        from .engine.prompts import NoFormat, TemplateFormat, TurnsFormat

        if not engine.limits.generates:
            return NoFormat(), ()
        turns = card.turns if card else None
        if turns is None and engine.chat_template:
            template = await TemplateFormat.load(
                engine.chat_template,
                bos=engine.begin_text,
                eos=engine.end_text,
                control_texts=engine.control_texts,
            )
            return template, ()
        for known in (card, cards().get(cls.name)):
            turns = turns or (known.fallback if known else None)
        if turns is not None:
            return TurnsFormat(turns, engine.control_texts), turns.stop
        raise ConfigurationError(
            f"these weights carry no chat template and family {cls.name} has no plain format; "
            "start them under a card that has one: NAME@PATH, names by `open-llm-server models`"
        )


def _check_search(settings: Settings, engine: Engine, *, slots: int) -> None:
    """Raises ConfigurationError where every answer would be a search that cannot be had."""
    from .generation import check_beams

    if not engine.limits.generates:
        return
    try:
        check_beams(settings, engine.limits, slots=slots, choices=1, logprobs=None)
    except InvalidField as error:
        raise ConfigurationError(
            f"{error.message}; for one model among several: --set MODEL.num_beams=N",
            param=error.param,
        ) from error


async def _preprompt_tokens(
    engine: Engine, prompts: PromptFormat, preprompt: str | None
) -> list[list[int]]:
    """What every prompt begins with, in chats and in plain completions; nothing for an encoder,
    to which a part of a prompt means nothing.

    Raises ConfigurationError where the pre-prompt leaves no room for anything else.
    """
    if not (preprompt and engine.limits.generates):
        return []
    from .engine.job import common_prefix
    from .prompting import chat_tokens, with_preprompt

    rendered = [
        await prompts.render(with_preprompt([Message(role="user", content=text)], preprompt))
        for text in ("a", "B?")
    ]

    def tokenize() -> list[list[int]]:
        one, two = (chat_tokens(engine, segments) for segments in rendered)
        chat = one[: common_prefix(one, two, len(one))]
        plain = engine.tokenize(preprompt, begin=True, control=False)
        return [tokens for tokens in (chat, plain) if tokens]

    room = engine.limits.context_length - 1
    try:
        pins = await asyncio.to_thread(tokenize)
    except ContextLengthExceeded as error:
        longest = int(error.extra["n_prompt_tokens"])
    else:
        longest = max(map(len, pins), default=0)
        if longest < room:
            return [] if engine.limits.whole_prompt else pins
    raise ConfigurationError(
        f"the pre-prompt (--prompt) is at least {longest} tokens long and the model holds "
        f"{room + 1}; shorten it or set a larger --context-length"
    )


async def _in_own_thread(call: Callable[[], Made]) -> Made:
    """Calls in a thread that ends with the call.

    OpenMP keeps a team for every thread that has computed. Once all their members outnumber the
    cores it takes the machine for crowded, and its threads sleep where they would look for work:
    torch's small models lose a fifth of their speed and more then
    (`python -m benchmarks.torch_engine --crowded`).
    """
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, call)
    finally:
        executor.shutdown(wait=False)


def _start_worker(
    engine: Engine,
    config: ModelConfig,
    pins: Sequence[Sequence[int]],
    on_crash: Callable[[BaseException], None],
) -> Any:
    from .engine.worker import Worker

    worker = Worker(engine, queue_size=config.queue_size, running=config.slots, on_crash=on_crash)
    for tokens in pins:
        worker.pin(tokens)
    worker.start()
    return worker


def weights_path(plan: ModelPlan) -> Path:
    """The file or folder on this machine that holds a plan's weights. Raises StartError."""
    from .config.models import local_path

    if plan.stored:
        return Path(plan.stored)
    if plan.source is None:
        raise ConfigurationError(
            f"model {plan.name} has no weights; name them as {plan.family}@PATH"
        )
    return local_path(plan.source)


def bento_runnable(plan: ModelPlan, *, eager: bool, runtime_dir: Path | None) -> type[Any]:
    """A fresh BentoML Runnable class that hosts the model of `plan`.

    Fresh for each runner, because BentoML's method table is shared along inheritance. It has one
    stream method, because everything else loses errors or cancels (see docs/adr/0001).
    """
    import bentoml.legacy
    from bentoml._internal.context import server_context

    from .hosting import Hosting

    class ServedModel(bentoml.legacy.Runnable):
        SUPPORTED_RESOURCES = ("cpu", "nvidia.com/gpu")
        SUPPORTS_CPU_MULTI_THREADING = True
        bentoml_runnable_methods__ = None

        def __init__(self) -> None:
            in_worker = server_context.service_type == "runner"
            self.hosting = Hosting(plan, wait=eager, leave=in_worker, runtime_dir=runtime_dir)
            with contextlib.suppress(RuntimeError):  # no loop yet: the first call begins
                self.hosting.begin()

        @bentoml.legacy.Runnable.method
        async def call(self, request: str) -> AsyncGenerator[str, None]:
            frames = self.hosting.call(request)
            try:
                async for frame in frames:
                    yield frame
            finally:
                await frames.aclose()

    return ServedModel
