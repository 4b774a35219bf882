"""Family `flan-t5`: Google's FLAN-T5 in every size, and other encoder-decoders of T5's kind."""

from __future__ import annotations

from .registry import Registry
from .torch_family import TorchFamily


@Registry.add_model("flan-t5")
class FlanT5(TorchFamily):
    """The prompt goes to the encoder whole; the answer is a text of its own."""

    model_types = ("t5",)


get_runner = FlanT5.get_runner
