"""Checkpoints in the format of `int8_format`: made of a loaded model, and loaded into one.

Every linear layer is stored as levels of 8 bits with one scale for each output, but for an output
matrix that is the table of embeddings as well. The products with them are `torch_parts.Int8Linear`
on CPUs, as for `--dtype int8`; elsewhere weights become what they stand for, layer by layer.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from torch import Tensor, nn

from ..errors import StartError, WeightsError
from .checkpoint_view import model_view
from .int8_format import SCALE
from .torch_checkpoint import Checkpoint
from .torch_parts import levels_of
from .torch_writing import Coming, write

_WEIGHT = ".weight"
_SHOWN = 3


class StoredLinear(nn.Module):
    """In the place of a linear layer of the library's model: its weight is made when it is asked
    for, and nobody keeps it but who asked."""

    def __init__(self, levels: Tensor, scales: Tensor, bias: Any, dtype: torch.dtype) -> None:
        super().__init__()
        # A parameter, so that whoever frees a module's parameters frees it too.
        self.levels = nn.Parameter(levels, requires_grad=False)
        self.register_buffer("scales", scales)
        self.bias = bias
        self._dtype = dtype

    @property
    def weight(self) -> Tensor:
        """[outputs, inputs]."""
        scales: Tensor = self.get_buffer("scales")
        return (self.levels * scales[:, None]).to(self._dtype)


def save(model: Any, path: Path, *, kept: torch.dtype, told: Callable[[int], None]) -> None:
    """Writes the weights of the library's `model` to `path`; what is not stored in 8 bits has the
    type `kept`. `told` counts bytes. Raises OSError."""
    write(path, _coming(model, kept), told)


def bytes_of(model: Any, kept: torch.dtype) -> int:
    """What `save` will count."""
    return sum(coming.bytes for coming in _coming(model, kept))


def _coming(model: Any, kept: torch.dtype) -> Iterator[Coming]:
    table = model.get_input_embeddings().weight
    layers = {
        name + _WEIGHT
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight is not table
    }
    for name, parameter in model.named_parameters():
        if name not in layers:
            yield Coming(name, kept, tuple(parameter.shape), partial(parameter.detach().to, kept))
            continue
        weight = parameter.detach()
        outputs = (weight.shape[0],)
        yield Coming(name, torch.int8, tuple(weight.shape), partial(_levels, weight))
        yield Coming(name + SCALE, torch.float32, outputs, partial(_scales, weight))


def _levels(weight: Tensor) -> Tensor:
    return levels_of(weight)[0]


def _scales(weight: Tensor) -> Tensor:
    return levels_of(weight)[1]


def load(model_class: Any, checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """The library's model of `checkpoint` with a `StoredLinear` in the place of each layer that is
    stored in 8 bits; all other parameters have `dtype`. Raises StartError."""
    if importlib.util.find_spec("accelerate") is None:
        raise StartError(
            "weights in 8 bits need accelerate; run: pip install 'open-llm-server[torch]'"
        )
    import accelerate  # type: ignore[import-untyped]  # it has no types

    with model_view(checkpoint) as view, ExitStack() as files:
        config = transformers.AutoConfig.from_pretrained(
            view, trust_remote_code=False, local_files_only=True
        )
        with accelerate.init_empty_weights(include_buffers=False):
            model = model_class.from_config(config, dtype=dtype, trust_remote_code=False)
        held: dict[str, Any] = {}
        for path in checkpoint.weights:
            opened = files.enter_context(safetensors.safe_open(path, framework="pt"))
            held |= dict.fromkeys(opened.keys(), opened)
        for name in held:
            if not name.endswith(SCALE):
                _put(model, name, held, dtype)
    # The library ties T5's head to the table whatever the configuration says, unless it has both.
    for name in {*model.all_tied_weights_keys} & held.keys():
        del model.all_tied_weights_keys[name]
    model.tie_weights(recompute_mapping=False)
    missing = sorted(name for name, one in model.named_parameters() if one.is_meta)
    if missing:
        raise WeightsError(
            f"the weights in {checkpoint.folder} lack {', '.join(missing[:_SHOWN])}; import them "
            "again"
        )
    return model


def _put(model: Any, name: str, held: dict[str, Any], dtype: torch.dtype) -> None:
    """Gives the model one tensor, or one layer."""
    path, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(path)
        shape = module.get_parameter(leaf).shape
    except AttributeError:
        raise WeightsError(
            f"the weights hold {name[:80]}, for which this model has no place; import it again"
        ) from None
    tensor: Tensor = held[name].get_tensor(name)
    if tensor.shape != shape:
        raise WeightsError(f"{name[:80]} has another shape than this model's; import it again")
    if name + SCALE not in held:
        module.register_parameter(leaf, nn.Parameter(tensor.to(dtype), requires_grad=False))
        return
    scales = held[name + SCALE].get_tensor(name + SCALE)
    if (tensor.dtype, scales.dtype, scales.shape) != (torch.int8, torch.float32, shape[:1]):
        raise WeightsError(f"{name[:80]} is not stored in 8 bits with scales; import it again")
    above, _, own = path.rpartition(".")
    stored = StoredLinear(tensor, scales, module.bias, dtype)
    setattr(model.get_submodule(above), own, stored)
