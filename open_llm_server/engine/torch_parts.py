"""The pieces that every model on torch is made of: linear layers, norms, rotary positions.

Each is a plain callable on tensors: a step of a small model takes a few milliseconds, and
`torch.nn.Module` would be a good part of them. Knows no model and no cache.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Literal["none", "relu", "gelu", "gelu_tanh", "silu"]
Apply = Callable[[Tensor], Tensor]

# torch declares the operators of oneDNN without types.
_mkldnn: Any = torch.ops.mkldnn
_quantized: Any = torch.ops.quantized

# How transformers' configurations spell them.
ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
_ONEDNN: dict[Activation, tuple[str, str]] = {
    "none": ("none", ""),
    "relu": ("relu", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "silu": ("swish", ""),
}
_PLAIN: dict[Activation, Apply] = {
    "none": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


_AT_ONCE = 1024
"""Outputs that are quantised at once: in float32 an output matrix would be a gigabyte and more."""


class Linear:
    """activation(x Wᵀ + b) for x of [tokens, in]; W is [out, in] as checkpoints store it."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none"
    ) -> None:
        self._weight = weight
        self._bias = bias
        self._activate = None if activation == "none" else _PLAIN[activation]

    def __call__(self, x: Tensor) -> Tensor:
        y = F.linear(x, self._weight, self._bias)
        return self._activate(y) if self._activate else y

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The result added to `other`, of [tokens, out]."""
        return self(x).add_(other)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The result multiplied with `other`, of [tokens, out]."""
        return self(x).mul_(other)


class PackedLinear(Linear):
    """With weights laid out for the CPU's matrix instructions once, at load.

    `F.linear` lays bfloat16 weights out at every call, which takes longer than the product.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none"
    ) -> None:
        packed = _mkldnn._reorder_linear_weight(weight.contiguous(), None)
        super().__init__(packed, bias, activation)
        self._fused = _ONEDNN[activation]

    def __call__(self, x: Tensor) -> Tensor:
        name, algorithm = self._fused
        y: Tensor = _mkldnn._linear_pointwise(x, self._weight, self._bias, name, [], algorithm)
        return y

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        if self._activate:
            return super().plus(x, other)
        y: Tensor = _mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, "add")
        return y

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        if self._activate:
            return super().times(x, other)
        y: Tensor = _mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, "mul")
        return y


def levels_of(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` in 8 bits, and the scale of each of its outputs: levels times scales are near it.

    What levels and scales stand for has the same levels again.
    """
    levels = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(weight.shape[0])
    for begin in range(0, len(weight), _AT_ONCE):
        rows = slice(begin, begin + _AT_ONCE)
        wide = weight[rows].to("cpu", torch.float32)
        scales[rows] = (wide.abs().amax(dim=1) / 127).clamp_(min=1e-12)
        levels[rows] = (wide / scales[rows, None]).round_().clamp_(-127, 127).to(torch.int8)
    return levels, scales


class Int8Linear(Linear):
    """Weights in 8 bits, one scale for each output; inputs are quantised at each call.

    For float32 inputs. About a quarter of the memory traffic, and several times the arithmetic
    throughput on CPUs with VNNI; the scale of inputs is one for all tokens of a step.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none"
    ) -> None:
        levels, scales = levels_of(weight)
        zeros = torch.zeros(len(scales), dtype=torch.long)
        with warnings.catch_warnings():
            # torch means to replace its quantised tensors; their packed products have no successor
            # yet that is as fast.
            warnings.simplefilter("ignore", UserWarning)
            quantised = torch._make_per_channel_quantized_tensor(levels, scales.double(), zeros, 0)
        packed = _quantized.linear_prepack(quantised, None if bias is None else bias.float())
        super().__init__(packed, None, activation)

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = _quantized.linear_dynamic(x, self._weight, False)
        return self._activate(y) if self._activate else y


def can_pack(dtype: torch.dtype) -> bool:
    """Whether `PackedLinear` is the better layer on this CPU. In float32 it is slower for one
    token, which is the usual case where bfloat16 is not to be had."""
    return dtype == torch.bfloat16 and bool(_mkldnn._is_mkldnn_bf16_supported())


Kind = Literal["plain", "packed", "int8"]
_KINDS: dict[Kind, type[Linear]] = {"plain": Linear, "packed": PackedLinear, "int8": Int8Linear}


def linear(
    kind: Kind, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none"
) -> Linear:
    """A linear layer of the given kind; the caller gives `weight` away."""
    return _KINDS[kind](
        weight.detach(), None if bias is None else bias.detach().contiguous(), activation
    )


def layer_norm(module: Any) -> Apply:
    """Of a `torch.nn.LayerNorm` or its like."""
    weight: Tensor = module.weight.detach()
    bias = getattr(module, "bias", None)
    bias = None if bias is None else bias.detach()
    shape, eps = weight.shape, float(module.eps)

    def apply(x: Tensor) -> Tensor:
        return torch.layer_norm(x, shape, weight, bias, eps)

    return apply


def rms_norm(module: Any) -> Apply:
    """Of transformers' Llama and T5 norms: x / sqrt(mean(x²) + eps) · weight, mean in float32."""
    weight: Tensor = module.weight.detach()
    eps = float(module.variance_epsilon)
    size = weight.shape[-1]

    def apply(x: Tensor) -> Tensor:
        # The norm of a vector is one pass in float32; torch's own rms_norm is five.
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = length.square_().div_(size).add_(eps).rsqrt_()
        normed: Tensor = x * scale
        return normed.to(x.dtype).mul_(weight)

    return apply


class Rotary:
    """Rotary positions over the first `size` values of each head, in halves (GPT-NeoX's order).

    Su et al., "RoFormer", 2021.
    """

    def __init__(
        self, frequencies: Tensor, scaling: float, positions: int, dtype: torch.dtype
    ) -> None:
        """`frequencies`: [size / 2], angles per position."""
        self.size = 2 * len(frequencies)
        angles = torch.outer(
            torch.arange(positions, device=frequencies.device).float(), frequencies.float()
        )
        angles = torch.cat((angles, angles), dim=-1)
        signs = torch.ones(self.size, device=frequencies.device)
        signs[: self.size // 2] = -1
        self._cos = (angles.cos() * scaling).to(dtype)
        self._sin = (angles.sin() * scaling * signs).to(dtype)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """What `turn` needs, for tokens at `positions` of [tokens]."""
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)

    def turn(self, heads: Tensor, angles: tuple[Tensor, Tensor]) -> None:
        """Turns `heads` of [tokens, heads, head size] in place."""
        cos, sin = angles
        part = heads if self.size == heads.shape[-1] else heads[..., : self.size]
        half = self.size // 2
        swapped = torch.cat((part[..., half:], part[..., :half]), dim=-1)
        part.mul_(cos).addcmul_(swapped, sin)


def alibi_slopes(heads: int) -> Tensor:
    """Slope of each head's linear bias, [heads], steepest first.

    Press et al., "Train Short, Test Long", 2022, with their rule for head counts that are no
    power of two.
    """
    power = 1 << (heads.bit_length() - 1)
    base = 2.0 ** (-8.0 / power)
    slopes = [base ** (index + 1) for index in range(power)]
    finer = 2.0 ** (-4.0 / power)
    slopes += [finer ** (2 * index + 1) for index in range(heads - power)]
    return torch.tensor(slopes)
