"""The forward pass of decoder-only models: GPT-NeoX, BLOOM, StableLM and Llama in one frame.

They differ in their norms, in where positions enter (rotary or a linear bias) and in whether
attention and feed-forward run side by side. `torch_architectures` fills the frame from
checkpoints; this file only computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .torch_cache import Block
from .torch_parts import Apply, Linear, Rotary
from .torch_ragged import Bias, Ragged, attend


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down(up(x)), or down(gate(x) · up(x)) where there is a gate; activations are the layers'."""

    up: Linear
    down: Linear
    gate: Linear | None = None

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        inner = self.up(x) if self.gate is None else self.up.times(x, self.gate(x))
        return self.down.plus(inner, other)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. `qkv` gives queries, keys and values of a token one after the other."""

    device: torch.device
    before: Apply
    """Norm ahead of attention."""
    qkv: Linear
    out: Linear
    between: Apply | None
    """Norm ahead of the feed-forward part; `None`: that reads what attention read."""
    feed: FeedForward
    query_norm: Apply | None = None
    key_norm: Apply | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes that a cache and a scheduler want to know."""

    layers: int
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    vocabulary: int
    positions: int
    """Tokens that the model was made for."""


@dataclass(frozen=True, slots=True)
class Devices:
    """Where the parts of a model beside its layers are: all one, unless GPUs share the model."""

    embed: torch.device
    norm: torch.device
    head: torch.device


@dataclass(frozen=True, slots=True)
class Decoder:
    """A whole model. `bias` and `rotary` are its two possible kinds of positions."""

    shape: Shape
    embed: Apply
    layers: Sequence[Layer]
    norm: Apply
    head: Linear
    devices: Devices
    rotary: Rotary | None = None
    bias: Bias | None = None
    parallel: bool = False
    """Attention and feed-forward both read the layer's input."""
    normed_residual: bool = False
    """What is added at the end of each half is its normed input."""

    def states(self, batch: Ragged, blocks: Sequence[Block], check: Callable[[], None]) -> Tensor:
        """Final hidden states of [tokens, hidden], normed; keys and values go into `blocks`.

        `check` is called before each layer and may raise.
        """
        x = self.embed(batch.tokens)
        angles = self.rotary.at(batch.positions) if self.rotary else None
        device = x.device
        for layer, block in zip(self.layers, blocks, strict=True):
            check()
            if layer.device != device:
                device = layer.device
                x, batch = x.to(device), batch.to(device)
                angles = (angles[0].to(device), angles[1].to(device)) if angles else None
            x = self._layer(layer, x, batch, block, angles)
        return self.norm(x.to(self.devices.norm))

    def logits(self, states: Tensor) -> Tensor:
        """[lines, vocabulary] in float32, of final states of [lines, hidden]."""
        return self.head(states.to(self.devices.head)).float()

    def _layer(
        self,
        layer: Layer,
        x: Tensor,
        batch: Ragged,
        block: Block,
        angles: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        normed = layer.before(x)
        attended = self._attention(layer, normed, batch, block, angles)
        added = layer.out.plus(attended, normed if self.normed_residual else x)
        if self.parallel:
            return layer.feed.plus(layer.between(x) if layer.between else normed, added)
        assert layer.between is not None
        normed = layer.between(added)
        return layer.feed.plus(normed, normed if self.normed_residual else added)

    def _attention(
        self,
        layer: Layer,
        x: Tensor,
        batch: Ragged,
        block: Block,
        angles: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        heads, kv_heads, size = self.shape.heads, self.shape.kv_heads, self.shape.head_size
        qkv = layer.qkv(x).view(len(x), heads + 2 * kv_heads, size)
        if layer.query_norm and layer.key_norm:
            qkv[:, :heads] = layer.query_norm(qkv[:, :heads])
            qkv[:, heads : heads + kv_heads] = layer.key_norm(qkv[:, heads : heads + kv_heads])
        if self.rotary and angles:
            self.rotary.turn(qkv[:, : heads + kv_heads], angles)
        block.write(batch.places, qkv[:, heads:].view(len(x), 2, kv_heads, size))
        return attend(qkv[:, :heads], block, batch.parts, size**-0.5)
