"""Family `dolly`: Databricks' Dolly 2, Pythia tuned on instructions that people wrote."""

from __future__ import annotations

from .registry import Registry
from .torch_family import TorchFamily


@Registry.add_model("dolly")
class Dolly(TorchFamily):
    """GPT-NeoX with an instruction format and an end key of its own; see models/dolly.yaml."""

    model_types = ("gpt_neox",)


get_runner = Dolly.get_runner
