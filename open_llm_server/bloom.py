"""Family `bloom`: BigScience's BLOOM in every size, and BLOOMZ, which follows instructions."""

from __future__ import annotations

from .registry import Registry
from .torch_family import TorchFamily


@Registry.add_model("bloom")
class Bloom(TorchFamily):
    """Attention with linear biases (ALiBi): no positions to run out of beyond the trained 2048."""

    model_types = ("bloom",)


get_runner = Bloom.get_runner
