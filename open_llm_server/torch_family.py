"""What the families on torch have in common: their settings, their checks, how they are loaded.

Owns what must hold before torch is imported. Knows no architecture: a family names the model types
that it takes, and `engine.torch_engine` computes them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from .config.cards import cards
from .config.schema import ModelConfig
from .errors import ConfigurationError, WeightsError
from .extras import TORCH, require
from .runnable import LLMRunnable, weights_path

if TYPE_CHECKING:
    from .config.resolved import ModelPlan
    from .engine.base import Engine

ADAPTER = "adapter_config.json"


class TorchConfig(ModelConfig):
    """What can be set for a model on torch."""

    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        default="auto",
        description="Numbers that torch computes in; auto: bfloat16 where it is fast, else "
        "float32; int8: faster on CPUs, less exact.",
    )


class TorchFamily(LLMRunnable):
    """Checkpoints in folders, as the Hugging Face hub has them. Subclasses name `model_types`."""

    engine = "torch"
    weights = "folder"
    Config = TorchConfig
    model_types: ClassVar[tuple[str, ...]]
    """The values of `model_type` in `config.json` that the family takes."""

    @classmethod
    def check_installed(cls, plan: ModelPlan) -> None:
        check_torch(plan)

    @classmethod
    def check_weights(cls, plan: ModelPlan) -> None:
        check_checkpoint(plan, cls.model_types)

    @classmethod
    def open_engine(cls, plan: ModelPlan, config: Any, *, pinned_slots: int) -> Engine:
        return open_checkpoint(plan, config, cls.model_types, pinned_slots=pinned_slots)


def check_torch(plan: ModelPlan) -> None:
    """Raises StartError where a package is missing that `plan` needs on torch, or is too old."""
    more = ["peft"] if plan.config.get("lora") else []
    more += ["accelerate"] if len(plan.gpus) > 1 else []
    require(TORCH, plan.name, "torch", "transformers", "safetensors", *more)


def check_checkpoint(plan: ModelPlan, model_types: Collection[str]) -> None:
    """Refuses a plan that torch cannot load, by names and small files alone.

    Raises WeightsError for a folder that is no checkpoint of `model_types` or no adapter,
    ConfigurationError for settings that exclude each other.
    """
    if plan.config.get("dtype") == "int8" and plan.device.startswith(("gpu", "mps")):
        raise ConfigurationError(
            f"{plan.name}: dtype int8 is for CPUs, and device {plan.device} is none; "
            "leave --dtype out, or place the model on the cpu",
            param="dtype",
        )
    from .engine.torch_checkpoint import read_checkpoint

    read_checkpoint(weights_path(plan), model_types=model_types)
    for adapter in map(Path, plan.config.get("lora", ())):
        if not (adapter / ADAPTER).is_file():
            raise WeightsError(
                f"{plan.name}: {adapter} is no LoRA adapter of PEFT, which is a folder with "
                f"{ADAPTER} in it; GGUF adapters go with GGUF weights"
            )


def open_checkpoint(
    plan: ModelPlan, config: Any, model_types: Collection[str], *, pinned_slots: int
) -> Engine:
    """Loads the plan's folder on torch. Raises what `check_checkpoint` raises, and WeightsError."""
    check_checkpoint(plan, model_types)
    from .engine.torch_engine import TorchEngine

    return TorchEngine.load(
        weights_path(plan),
        model_types=model_types,
        context_length=config.context_length,
        slots=config.slots,
        pinned_slots=pinned_slots,
        threads=plan.threads,
        device=plan.device,
        gpus=len(plan.gpus),
        dtype=config.dtype,
        lora=config.lora,
        force=config.force,
        end_texts=end_texts(plan),
    )


def end_texts(plan: ModelPlan) -> tuple[str, ...]:
    """Spellings of control tokens that end an answer: the card's, then the family's card's."""
    known = (cards().get(name) for name in (plan.card, plan.family) if name)
    return tuple(dict.fromkeys(text for card in known if card for text in card.end_tokens))
