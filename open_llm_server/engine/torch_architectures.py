"""Fills `Decoder` from transformers' models: GPT-NeoX, BLOOM, StableLM, Llama.

The only place that knows how those name and order their weights. Each module gives its memory
back as soon as its weights stand in their new layout, so that a model is never held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import WeightsError
from .fit_torch import LARGE_HEAD_BYTES
from .torch_decoder import Decoder, Devices, FeedForward, Layer, Shape
from .torch_parts import (
    ACTIVATIONS,
    Activation,
    Apply,
    Kind,
    Linear,
    Rotary,
    alibi_slopes,
    layer_norm,
    linear,
    rms_norm,
)

_STATIC_ROPES = ("default", "linear", "llama3", "yarn")


def decoder(model: Any, kind: Kind, positions: int) -> Decoder:
    """The model in our frame. `positions` bounds what a slot can hold. Empties `model`."""
    if kind != "plain":
        leave_file(model)
    return _BUILDERS[model.config.model_type](model, kind, positions)


def leave_file(model: Any) -> None:
    """Copies what will be used as it is, so that nothing holds the checkpoint's file in memory
    once everything else has been laid out anew."""
    embeddings = {id(model.get_input_embeddings().weight)}
    for parameter in model.parameters():
        if parameter.dim() == 1 or id(parameter) in embeddings:
            parameter.data = parameter.data.clone()


def free(module: Any) -> None:
    """Gives back the memory of weights that nobody else holds."""
    for parameter in module.parameters():
        parameter.data = torch.empty(0, dtype=parameter.dtype)


def activation_of(name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise WeightsError(
            f"this checkpoint's activation {name!r} is not known here; known are "
            f"{', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def fused(kind: Kind, modules: Sequence[Any]) -> Linear:
    """Linear modules with the same input as one."""
    weight = torch.cat([module.weight for module in modules])
    biases = [module.bias for module in modules]
    return linear(kind, weight, None if biases[0] is None else torch.cat(biases))


def from_module(kind: Kind, module: Any, activation: Activation = "none") -> Linear:
    return linear(kind, module.weight, module.bias, activation)


def head_of(kind: Kind, model: Any, embedding: Tensor) -> Linear:
    """The output matrix."""
    weight = model.lm_head.weight.detach()
    tied = weight.data_ptr() == embedding.data_ptr()
    if tied and kind == "packed" and weight.nbytes > LARGE_HEAD_BYTES:
        kind = "plain"
    return linear(kind, weight, getattr(model.lm_head, "bias", None))


def embedding_of(module: Any, then: Apply | None = None) -> tuple[Apply, Tensor]:
    weight: Tensor = module.weight.detach()

    def embed(tokens: Tensor) -> Tensor:
        x = F.embedding(tokens, weight)
        return then(x) if then else x

    return embed, weight


def _neox(model: Any, kind: Kind, positions: int) -> Decoder:
    config, body = model.config, model.gpt_neox
    heads, activation = config.num_attention_heads, activation_of(config.hidden_act)
    layers = _layers(
        body.layers, lambda module: _joined(kind, module, module.attention, heads, activation)
    )
    shape = _shape(config, heads, config.max_position_embeddings)
    return replace(
        _frame(model, kind, shape, layers, body.embed_in, body.final_layer_norm),
        rotary=_rotary(body.rotary_emb, positions, body.embed_in.weight.dtype),
        parallel=config.use_parallel_residual,
    )


def _bloom(model: Any, kind: Kind, positions: int) -> Decoder:
    config, body = model.config, model.transformer
    heads, table = config.n_head, body.word_embeddings
    layers = _layers(
        body.h, lambda module: _joined(kind, module, module.self_attention, heads, "gelu_tanh")
    )
    # The linear bias has no longest position; the published models were trained with 2048.
    shape = _shape(config, heads, getattr(config, "seq_length", 2048))
    embed, _ = embedding_of(table, layer_norm(body.word_embeddings_layernorm))
    slopes = alibi_slopes(heads).to(table.weight.device).view(1, -1, 1, 1)
    return replace(
        _frame(model, kind, shape, layers, table, body.ln_f),
        embed=embed,
        bias=lambda distances: -slopes * distances.unsqueeze(1),
        normed_residual=config.apply_residual_connection_post_layernorm,
    )


def _stablelm(model: Any, kind: Kind, positions: int) -> Decoder:
    config, body = model.config, model.model
    activation = activation_of(config.hidden_act)

    def layer(module: Any) -> Layer:
        made = _projected(kind, module, layer_norm, activation)
        if not config.qk_layernorm:
            return made
        attention = module.self_attn
        return replace(
            made,
            query_norm=_head_norms(attention.q_layernorm),
            key_norm=_head_norms(attention.k_layernorm),
        )

    shape = _shape(config, config.num_key_value_heads, config.max_position_embeddings)
    layers = _layers(body.layers, layer)
    return replace(
        _frame(model, kind, shape, layers, body.embed_tokens, body.norm),
        rotary=_rotary(body.rotary_emb, positions, body.embed_tokens.weight.dtype),
        parallel=config.use_parallel_residual,
    )


def _llama(model: Any, kind: Kind, positions: int) -> Decoder:
    config, body = model.config, model.model
    activation = activation_of(config.hidden_act)
    layers = _layers(body.layers, lambda module: _projected(kind, module, rms_norm, activation))
    shape = _shape(config, config.num_key_value_heads, config.max_position_embeddings)
    return replace(
        _frame(model, kind, shape, layers, body.embed_tokens, body.norm, rms_norm),
        rotary=_rotary(body.rotary_emb, positions, body.embed_tokens.weight.dtype),
    )


_BUILDERS: dict[str, Callable[[Any, Kind, int], Decoder]] = {
    "gpt_neox": _neox,
    "bloom": _bloom,
    "stablelm": _stablelm,
    "llama": _llama,
}


def devices_of(model: Any, embedding: Tensor, norm: Any) -> Devices:
    """`norm`: the last one, ahead of the output matrix."""
    return Devices(embedding.device, norm.weight.device, model.lm_head.weight.device)


def _frame(
    model: Any,
    kind: Kind,
    shape: Shape,
    layers: Sequence[Layer],
    table: Any,
    last: Any,
    norm: Callable[[Any], Apply] = layer_norm,
) -> Decoder:
    """What all have. `table`: the embedding's module; `last`: that of the last norm."""
    embed, weight = embedding_of(table)
    return Decoder(
        shape=shape,
        embed=embed,
        layers=layers,
        norm=norm(last),
        head=head_of(kind, model, weight),
        devices=devices_of(model, weight, last),
    )


def _layers(modules: Iterable[Any], layer: Callable[[Any], Layer]) -> list[Layer]:
    """One after the other: each module is empty before the next one is laid out."""
    layers = []
    for module in modules:
        layers.append(layer(module))
        free(module)
    return layers


def _joined(kind: Kind, module: Any, attention: Any, heads: int, activation: Activation) -> Layer:
    """A layer whose checkpoint has queries, keys and values in one matrix, and no gate."""
    return Layer(
        device=module.input_layernorm.weight.device,
        before=layer_norm(module.input_layernorm),
        qkv=_by_head(kind, attention.query_key_value, heads),
        out=from_module(kind, attention.dense),
        between=layer_norm(module.post_attention_layernorm),
        feed=FeedForward(
            up=from_module(kind, module.mlp.dense_h_to_4h, activation),
            down=from_module(kind, module.mlp.dense_4h_to_h),
        ),
    )


def _projected(
    kind: Kind, module: Any, norm: Callable[[Any], Apply], activation: Activation
) -> Layer:
    """A layer whose checkpoint has a matrix each for queries, keys and values, and a gate."""
    attention, between = module.self_attn, module.post_attention_layernorm
    return Layer(
        device=module.input_layernorm.weight.device,
        before=norm(module.input_layernorm),
        qkv=fused(kind, (attention.q_proj, attention.k_proj, attention.v_proj)),
        out=from_module(kind, attention.o_proj),
        between=None if between is None else norm(between),
        feed=_gated(kind, module.mlp, activation),
    )


def _shape(config: Any, kv_heads: int, positions: int) -> Shape:
    heads = config.num_attention_heads
    return Shape(
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=kv_heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        positions=positions,
    )


def _by_head(kind: Kind, module: Any, heads: int) -> Linear:
    """Checkpoints order these outputs by head, and queries, keys, values within it; we want all
    queries first."""

    def reordered(values: Tensor) -> Tensor:
        rest = values.shape[1:]
        return values.view(heads, 3, -1, *rest).transpose(0, 1).reshape(-1, *rest)

    bias = None if module.bias is None else reordered(module.bias)
    return linear(kind, reordered(module.weight), bias)


def _gated(kind: Kind, mlp: Any, activation: Activation) -> FeedForward:
    return FeedForward(
        gate=from_module(kind, mlp.gate_proj, activation),
        up=from_module(kind, mlp.up_proj),
        down=from_module(kind, mlp.down_proj),
    )


def _head_norms(module: Any) -> Apply:
    """A norm of its own for each head, over [tokens, heads, head size]."""
    weight = torch.stack([norm.weight for norm in module.norms]).detach()
    first = module.norms[0]
    bias = None
    if first.bias is not None:
        bias = torch.stack([norm.bias for norm in module.norms]).detach()
    size, eps = weight.shape[-1], float(first.eps)

    def apply(heads: Tensor) -> Tensor:
        normed = torch.layer_norm(heads, (size,), None, None, eps) * weight
        return normed if bias is None else normed + bias

    return apply


def _rotary(module: Any, positions: int, dtype: torch.dtype) -> Rotary:
    if module.rope_type not in _STATIC_ROPES:
        raise WeightsError(
            f"this checkpoint stretches its rotary positions as {module.rope_type!r}, which is not "
            f"supported here; supported are {', '.join(_STATIC_ROPES)}"
        )
    return Rotary(module.inv_freq, float(module.attention_scaling), positions, dtype)
