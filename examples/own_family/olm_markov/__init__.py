"""Family `markov`: imports its engine when a model is loaded, so that listing it costs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from open_llm_server import LLMRunnable, Registry
from open_llm_server.config.schema import FilePath, ModelConfig

if TYPE_CHECKING:
    from open_llm_server.config.resolved import ModelPlan
    from open_llm_server.engine.base import Engine

CORPUS = Path(__file__).with_name("corpus.txt")


class MarkovConfig(ModelConfig):
    """What every model has, and two more; both become options, variables and YAML keys."""

    order: Annotated[int, Field(ge=1, le=16)] = Field(
        default=4, description="Bytes that the next one is chosen by."
    )
    corpus: FilePath | None = Field(
        default=None,
        description="Text to write like, a sentence a line; none: the package's own.",
        json_schema_extra={"path": True},
    )


@Registry.add_model("markov")
class Markov(LLMRunnable):
    """Writes as a text does, a byte at a time."""

    engine = "markov"
    weights = "none"
    Config = MarkovConfig

    @classmethod
    def open_engine(cls, plan: ModelPlan, config: Any, *, pinned_slots: int) -> Engine:
        from .engine import MarkovEngine

        return MarkovEngine(
            Path(config.corpus or CORPUS).read_bytes(),
            order=config.order,
            context_length=config.context_length or 4096,
            slots=config.slots + pinned_slots,
        )


get_runner = Markov.get_runner
