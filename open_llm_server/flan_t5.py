"""Family `flan-t5`: Google's FLAN-T5 in every size, and other encoder-decoders of T5's kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ConfigurationError
from .registry import Registry
from .torch_family import TorchFamily

if TYPE_CHECKING:
    from .config.resolved import ModelPlan


@Registry.add_model("flan-t5")
class FlanT5(TorchFamily):
    """The prompt goes to the encoder whole; the answer is a text of its own."""

    model_types = ("t5",)

    @classmethod
    def check_weights(cls, plan: ModelPlan) -> None:
        if plan.config.get("dtype") == "float16":
            raise ConfigurationError(
                f"{plan.name}: T5 overflows in float16; choose bfloat16 or float32 "
                f"(--set {plan.name}.dtype=bfloat16)",
                param="dtype",
            )
        super().check_weights(plan)


get_runner = FlanT5.get_runner
