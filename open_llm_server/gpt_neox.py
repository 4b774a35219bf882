"""Family `gpt-neox`: EleutherAI's GPT-NeoX 20B, the Pythia suite, and what others made of them."""

from __future__ import annotations

from .registry import Registry
from .torch_family import TorchFamily


@Registry.add_model("gpt-neox")
class GPTNeoX(TorchFamily):
    """Base models as a rule: a conversation is written out as plain dialogue."""

    model_types = ("gpt_neox",)


get_runner = GPTNeoX.get_runner
