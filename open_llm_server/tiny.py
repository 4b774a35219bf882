"""Family `tiny`: the built-in model. No download, answers at once, knows this server.

The same weights lie here twice: as one GGUF file for llama.cpp, as a checkpoint for torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from .config.cards import Card, cards
from .llama import Llama
from .registry import Registry
from .torch_family import TorchConfig, check_checkpoint, check_torch, open_checkpoint

if TYPE_CHECKING:
    from .config.resolved import ModelPlan
    from .config.weights import WeightsKind
    from .engine.base import Engine

MODEL_TYPES = ("llama",)
_OWN_CARDS = {"llama.cpp": "tiny", "torch": "tiny-torch"}


class TinyConfig(TorchConfig):
    """Which of the two engines computes; `dtype` is for torch."""

    engine: Literal["llama.cpp", "torch"] = Field(
        default="llama.cpp", description="What computes the built-in model."
    )


@Registry.add_model("tiny")
class Tiny(Llama):
    """A few million parameters, for trying things out; see models/tiny/README.md."""

    Config = TinyConfig

    @classmethod
    def engine_of(cls, config: Mapping[str, Any]) -> str:
        return str(config["engine"])

    @classmethod
    def weights_of(cls, config: Mapping[str, Any]) -> WeightsKind:
        return "folder" if _on_torch(config) else "gguf"

    @classmethod
    def source_of(cls, config: Mapping[str, Any], card: Card | None) -> str | None:
        """The engine decides which of the two is meant, whatever name was called."""
        return cards()[_OWN_CARDS[config["engine"]]].source

    @classmethod
    def check_installed(cls, plan: ModelPlan) -> None:
        if _on_torch(plan.config):
            check_torch(plan)
        else:
            super().check_installed(plan)

    @classmethod
    def check_weights(cls, plan: ModelPlan) -> None:
        if _on_torch(plan.config):
            check_checkpoint(plan, MODEL_TYPES)
        else:
            super().check_weights(plan)

    @classmethod
    def open_engine(cls, plan: ModelPlan, config: Any, *, pinned_slots: int) -> Engine:
        if _on_torch(plan.config):
            return open_checkpoint(plan, config, MODEL_TYPES, pinned_slots=pinned_slots)
        return super().open_engine(plan, config, pinned_slots=pinned_slots)


def _on_torch(config: Mapping[str, Any]) -> bool:
    return bool(config["engine"] == "torch")


get_runner = Tiny.get_runner
