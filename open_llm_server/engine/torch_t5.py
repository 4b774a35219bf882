"""The forward passes of T5: an encoder that reads whole prompts, a decoder that reads a cache.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", 2020; the gated form of Flan-T5 and T5 1.1 as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .torch_architectures import (
    activation_of,
    devices_of,
    embedding_of,
    free,
    from_module,
    fused,
    head_of,
    leave_file,
)
from .torch_cache import Block
from .torch_decoder import Devices, FeedForward, Shape
from .torch_parts import Apply, Kind, Linear, rms_norm
from .torch_ragged import Part, Ragged, attend, parts_on


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """Attention of the prompt to itself, then feed-forward."""

    device: torch.device
    before: Apply
    qkv: Linear
    out: Linear
    between: Apply
    feed: FeedForward


@dataclass(frozen=True, slots=True)
class Cross:
    """A decoder layer's attention to what the encoder made of the prompt."""

    before: Apply
    queries: Linear
    keys_values: Linear
    out: Linear


@dataclass(frozen=True, slots=True)
class T5:
    """A whole model."""

    shape: Shape
    embed: Apply
    encoder: Sequence[EncoderLayer]
    encoder_norm: Apply
    encoder_bias: Callable[[Tensor], Tensor]
    decoder: Sequence[EncoderLayer]
    crosses: Sequence[Cross]
    decoder_norm: Apply
    bias: Callable[[Tensor], Tensor]
    """Of the decoder; distances as in `torch_ragged.Bias`."""
    head: Linear
    output_scale: float
    devices: Devices
    dtype: torch.dtype

    def encode(self, prompts: Sequence[Sequence[int]], check: Callable[[], None]) -> Tensor:
        """States of all tokens of `prompts`, one after another: [tokens, hidden], normed."""
        lengths = [len(prompt) for prompt in prompts]
        flat = [token for prompt in prompts for token in prompt]
        x = self.embed(torch.tensor(flat, device=self.devices.embed))
        masks = [self._encoder_mask(length) for length in lengths]
        heads, size = self.shape.heads, self.shape.head_size
        for layer in self.encoder:
            check()
            if layer.device != x.device:
                x, masks = x.to(layer.device), [mask.to(layer.device) for mask in masks]
            qkv = layer.qkv(layer.before(x)).view(len(x), 3, heads, size)
            outputs = []
            for part, mask in zip(torch.split(qkv, lengths), masks, strict=True):
                queries, keys, values = part.permute(1, 2, 0, 3).unsqueeze(1)
                result = F.scaled_dot_product_attention(queries, keys, values, mask, scale=1.0)
                outputs.append(result.squeeze(0).transpose(0, 1).reshape(-1, heads * size))
            attended = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
            x = layer.out.plus(attended, x)
            x = layer.feed.plus(layer.between(x), x)
        return self.encoder_norm(x)

    def remember(self, states: Tensor, places: Tensor, blocks: Sequence[Block]) -> None:
        """Puts what decoder layers read of `states`, [tokens, hidden], at `places` of `blocks`."""
        for cross, block in zip(self.crosses, blocks, strict=True):
            device = block.content.device
            made = cross.keys_values(states.to(device))
            block.write(
                places.to(device), made.view(len(states), 2, self.shape.heads, self.shape.head_size)
            )

    def states(
        self,
        batch: Ragged,
        own: Sequence[Block],
        cross: Sequence[Block],
        cross_parts: Sequence[Part],
        check: Callable[[], None],
    ) -> Tensor:
        """Final states of the decoder for one token of each row: [rows, hidden], normed.

        `cross_parts` say which encoded prompts the rows of `batch` read.
        """
        x = self.embed(batch.tokens)
        heads, size = self.shape.heads, self.shape.head_size
        for layer, other, block, prompt in zip(self.decoder, self.crosses, own, cross, strict=True):
            check()
            if layer.device != x.device:
                x, batch = x.to(layer.device), batch.to(layer.device)
                cross_parts = parts_on(cross_parts, layer.device)
            qkv = layer.qkv(layer.before(x)).view(len(x), 3, heads, size)
            block.write(batch.places, qkv[:, 1:])
            x = layer.out.plus(attend(qkv[:, 0], block, batch.parts, 1.0), x)
            queries = other.queries(other.before(x)).view(len(x), heads, size)
            x = other.out.plus(attend(queries, prompt, cross_parts, 1.0), x)
            x = layer.feed.plus(layer.between(x), x)
        return self.decoder_norm(x.to(self.devices.norm))

    def logits(self, states: Tensor) -> Tensor:
        """[lines, vocabulary] in float32, of final decoder states of [lines, hidden]."""
        if self.output_scale != 1.0:
            states = states * self.output_scale
        return self.head(states.to(self.devices.head)).float()

    def _encoder_mask(self, length: int) -> Tensor:
        places = torch.arange(length, device=self.devices.embed)
        return self.encoder_bias((places[:, None] - places)[None]).to(self.dtype)


def t5(model: Any, kind: Kind) -> T5:
    """The model in our own layout. Empties `model`.."""
    config = model.config
    if kind != "plain":
        leave_file(model)
    embed, weight = embedding_of(model.shared)
    biases = [
        _bias(stack.block[0].layer[0].SelfAttention) for stack in (model.encoder, model.decoder)
    ]
    encoder = [_layer(kind, block.layer, config) for block in model.encoder.block]
    decoder, crosses = [], []
    for block in model.decoder.block:
        attention = block.layer[1].EncDecAttention
        crosses.append(
            Cross(
                before=rms_norm(block.layer[1].layer_norm),
                queries=from_module(kind, attention.q),
                keys_values=fused(kind, (attention.k, attention.v)),
                out=from_module(kind, attention.o),
            )
        )
        free(block.layer[1])
        decoder.append(_layer(kind, block.layer, config))
    return T5(
        shape=Shape(
            layers=config.num_decoder_layers,
            heads=config.num_heads,
            kv_heads=config.num_heads,
            head_size=config.d_kv,
            hidden=config.d_model,
            vocabulary=config.vocab_size,
            positions=getattr(config, "n_positions", 512),
        ),
        embed=embed,
        encoder=encoder,
        encoder_norm=rms_norm(model.encoder.final_layer_norm),
        encoder_bias=biases[0],
        decoder=decoder,
        crosses=crosses,
        decoder_norm=rms_norm(model.decoder.final_layer_norm),
        bias=biases[1],
        head=head_of(kind, model, weight),
        output_scale=config.d_model**-0.5 if config.scale_decoder_outputs else 1.0,
        devices=devices_of(model, weight, model.decoder.final_layer_norm),
        dtype=weight.dtype,
    )


def _layer(kind: Kind, parts: Any, config: Any) -> EncoderLayer:
    attention, feed = parts[0].SelfAttention, parts[-1].DenseReluDense
    activation = activation_of(config.dense_act_fn)
    if config.is_gated_act:
        # T5 1.1 means the tanh form of gelu when it says gated-gelu; transformers spells it so.
        forward = FeedForward(
            gate=from_module(kind, feed.wi_0, activation),
            up=from_module(kind, feed.wi_1),
            down=from_module(kind, feed.wo),
        )
    else:
        forward = FeedForward(
            up=from_module(kind, feed.wi, activation), down=from_module(kind, feed.wo)
        )
    layer = EncoderLayer(
        device=parts[0].layer_norm.weight.device,
        before=rms_norm(parts[0].layer_norm),
        qkv=fused(kind, (attention.q, attention.k, attention.v)),
        out=from_module(kind, attention.o),
        between=rms_norm(parts[-1].layer_norm),
        feed=forward,
    )
    free(parts)
    return layer


def _bias(attention: Any) -> Callable[[Tensor], Tensor]:
    """The learned bias of a stack's first layer, which all its layers use."""
    buckets, longest = (
        attention.relative_attention_num_buckets,
        attention.relative_attention_max_distance,
    )
    distances = torch.arange(-longest, longest + 1)
    numbers = bucket(distances, buckets, longest, both_ways=not attention.is_decoder)
    weight = attention.relative_attention_bias.weight.detach()
    table: Tensor = weight[numbers.to(weight.device)].T.contiguous()

    def bias(distances: Tensor) -> Tensor:
        # Beyond the longest distance every bucket is the last one.
        places = distances.clamp(-longest, longest) + longest
        found: Tensor = table[:, places.to(table.device)]
        return found.transpose(0, 1).to(distances.device)

    return bias


def bucket(distances: Tensor, buckets: int, longest: int, *, both_ways: bool) -> Tensor:
    """The buckets of distances between query and key, in tokens; negative ahead of the query.

    Half of the buckets are for single distances, the others grow with the logarithm up to
    `longest` (section 2.1 of the paper). `both_ways`: keys ahead have buckets of their own.
    """
    offset = torch.zeros_like(distances)
    if both_ways:
        buckets //= 2
        offset[distances < 0] = buckets
        distances = distances.abs()
    distances = distances.clamp(min=0)
    exact = buckets // 2
    # In float32, as checkpoints were trained: some distances lie exactly on a border.
    grown = torch.log(distances.float() / exact) / math.log(longest / exact) * (buckets - exact)
    far = (exact + grown.clamp(min=0).long()).clamp(max=buckets - 1)
    return offset + torch.where(distances < exact, distances, far)
