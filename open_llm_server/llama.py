"""Family `llama`: every GGUF that llama.cpp generates text from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .extras import LLAMA_CPP, require
from .registry import Registry
from .runnable import LLMRunnable, weights_path

if TYPE_CHECKING:
    from .config.resolved import ModelPlan
    from .engine.base import Engine


@Registry.add_model("llama")
class Llama(LLMRunnable):
    """GGUF files on llama.cpp, in the chat format that the file or the card brings."""

    engine = "llama.cpp"

    @classmethod
    def check_installed(cls, plan: ModelPlan) -> None:
        require(LLAMA_CPP, plan.name)

    @classmethod
    def check_weights(cls, plan: ModelPlan) -> None:
        from .engine.gguf import read_header

        read_header(weights_path(plan))
        for adapter in plan.config.get("lora", ()):
            read_header(Path(adapter), adapter=True)

    @classmethod
    def open_engine(cls, plan: ModelPlan, config: Any, *, pinned_slots: int) -> Engine:
        from .engine.llama_cpp import LlamaCppEngine

        return LlamaCppEngine.load(
            weights_path(plan),
            context_length=config.context_length,
            slots=config.slots,
            pinned_slots=pinned_slots,
            threads=plan.threads,
            gpu_layers=-1 if plan.device.startswith(("gpu", "mps")) else 0,
            lora=config.lora,
            force=config.force,
        )


get_runner = Llama.get_runner
