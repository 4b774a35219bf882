"""Family `stablelm`: Stability AI's models of both kinds, GPT-NeoX (alpha) and StableLM (3B, 2)."""

from __future__ import annotations

from .registry import Registry
from .torch_family import TorchFamily


@Registry.add_model("stablelm")
class StableLM(TorchFamily):
    """The first ones are GPT-NeoX; all from StableLM 3B on are an architecture of their own."""

    model_types = ("gpt_neox", "stablelm")


get_runner = StableLM.get_runner
