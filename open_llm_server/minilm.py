"""Family `minilm`: sentence encoders of BERT's kind, which make embeddings and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from .errors import ConfigurationError
from .registry import Registry
from .runnable import weights_path
from .torch_family import TorchConfig, TorchFamily

if TYPE_CHECKING:
    from .config.resolved import ModelPlan
    from .engine.base import Engine


class MiniLMConfig(TorchConfig):
    """Encoders are small: what 16 bits save is little, and vectors are compared closely. In 8 bits
    a vector would depend on what else is asked at the same time."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="Numbers that torch computes in; auto: bfloat16 where it is fast, else "
        "float32.",
    )


@Registry.add_model("minilm")
class MiniLM(TorchFamily):
    """all-MiniLM-L6-v2 and others: texts become vectors whose cosine says how alike they are."""

    Config = MiniLMConfig
    model_types = ("bert",)

    @classmethod
    def check_weights(cls, plan: ModelPlan) -> None:
        if len(plan.gpus) > 1:
            raise ConfigurationError(
                f"{plan.name}: device {plan.device}: an encoder is small and computes on one GPU; "
                "name one",
                param="device",
            )
        super().check_weights(plan)
        from .engine.sentence_files import read_sentence_files

        read_sentence_files(weights_path(plan))

    @classmethod
    def open_engine(cls, plan: ModelPlan, config: Any, *, pinned_slots: int) -> Engine:
        cls.check_weights(plan)
        from .engine.torch_encoder import EncoderEngine

        return EncoderEngine.load(
            weights_path(plan),
            model_types=cls.model_types,
            context_length=config.context_length,
            slots=config.slots,
            threads=plan.threads,
            device=plan.device,
            dtype=config.dtype,
            lora=config.lora,
        )


get_runner = MiniLM.get_runner
