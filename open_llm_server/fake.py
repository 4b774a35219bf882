"""Family `fake`: the deterministic engine, for tests, demos and smoke runs. No weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from .config.schema import ModelConfig
from .registry import Registry
from .runnable import LLMRunnable

if TYPE_CHECKING:
    from .config.resolved import ModelPlan
    from .engine.base import Engine

_Seconds = Annotated[float, Field(ge=0, le=3600)]


class FakeConfig(ModelConfig):
    """How long the fake engine talks, and what goes wrong with it."""

    reply_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=16, description="Words of an answer; a caller may ask for fewer."
    )
    step_s: _Seconds = Field(default=0.0, description="Seconds that each step takes.")
    load_s: _Seconds = Field(default=0.0, description="Seconds that loading takes.")
    fail_on: str = Field(default="", description="A prompt with this text breaks the engine.")
    crash_on: str = Field(default="", description="A prompt with this text kills the process.")
    hang_on: str = Field(default="", description="A prompt with this text hangs the engine.")


@Registry.add_model("fake")
class Fake(LLMRunnable):
    """Counts in words, the same for the same prompt, as fast or slow as it is told."""

    engine = "fake"
    weights = "none"
    Config = FakeConfig

    @classmethod
    def open_engine(cls, plan: ModelPlan, config: Any, *, pinned_slots: int) -> Engine:
        from .engine.fake import FakeEngine, Faults

        return FakeEngine(
            context_length=config.context_length or 4096,
            slots=config.slots + pinned_slots,
            reply_tokens=config.reply_tokens,
            faults=Faults(
                step_s=config.step_s,
                load_s=config.load_s,
                fail_on=config.fail_on,
                crash_on=config.crash_on,
                hang_on=config.hang_on,
            ),
        )


get_runner = Fake.get_runner
