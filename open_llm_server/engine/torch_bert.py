"""BERT's forward pass over packed tokens: no padding, and nothing of one input in another's.

The tokens of all inputs stand one after another in [tokens, width], so that a linear layer sees
them at once; attention runs over inputs of one length together. Devlin et al., "BERT", 2019.
Knows no texts and no pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import WeightsError
from .torch_parts import ACTIVATIONS, Apply, Kind, Linear, layer_norm, linear


@dataclass(frozen=True, slots=True)
class Span:
    """`count` inputs of `length` tokens each, one after another from token `start` on."""

    start: int
    count: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.count * self.length


@dataclass(frozen=True, slots=True)
class _Layer:
    queries_keys_values: Linear
    attended: Linear
    attended_norm: Apply
    wide: Linear
    narrow: Linear
    norm: Apply


class Bert:
    """The encoder of a checkpoint. Made from transformers' own modules, which it takes apart."""

    def __init__(self, model: Any, *, kind: Kind) -> None:
        """`model`: a `BertModel`. Raises WeightsError for variants that are not computed here."""
        config = model.config
        _refuse_variants(config)
        self.width = int(config.hidden_size)
        self.positions = int(config.max_position_embeddings)
        """The longest input that there are positions for."""
        self._heads = int(config.num_attention_heads)
        tables = model.embeddings
        self._words: Tensor = tables.word_embeddings.weight.detach()
        # Every token is of the first segment, so its row can be added to the positions at once.
        first_segment = tables.token_type_embeddings.weight.detach()[0]
        self._places: Tensor = tables.position_embeddings.weight.detach() + first_segment
        self._norm = layer_norm(tables.LayerNorm)
        self._layers = [_layer(layer, config.hidden_act, kind) for layer in model.encoder.layer]

    @property
    def device(self) -> torch.device:
        return self._words.device

    def states(
        self, inputs: Sequence[Sequence[int]], between: Callable[[], None]
    ) -> tuple[Tensor, list[Span]]:
        """The last hidden states, [tokens, width], and where each input's are.

        `inputs` in the order of their lengths. Calls `between` before each layer.
        """
        spans = _spans(inputs)
        tokens = torch.tensor([token for one in inputs for token in one], device=self.device)
        places = torch.cat(
            [torch.arange(span.length, device=self.device).repeat(span.count) for span in spans]
        )
        states = self._norm(F.embedding(tokens, self._words) + F.embedding(places, self._places))
        for layer in self._layers:
            between()
            heads = layer.queries_keys_values(states)
            mixed = self._attend(heads, spans)
            states = layer.attended_norm(layer.attended.plus(mixed, states))
            states = layer.norm(layer.narrow.plus(layer.wide(states), states))
        return states, spans

    def _attend(self, heads: Tensor, spans: Sequence[Span]) -> Tensor:
        """Softmax attention within each input; `heads` are queries, keys and values beside each
        other, [tokens, 3 * width]."""
        size = self.width // self._heads
        mixed = heads.new_empty(len(heads), self.width)
        for span in spans:
            shape = (span.count, span.length, 3, self._heads, size)
            queries, keys, values = heads[span.start : span.stop].view(shape).permute(2, 0, 3, 1, 4)
            found = F.scaled_dot_product_attention(queries, keys, values)
            target = mixed[span.start : span.stop].view(span.count, span.length, self._heads, size)
            target.copy_(found.transpose(1, 2))
        return mixed


def _spans(inputs: Sequence[Sequence[int]]) -> list[Span]:
    spans: list[Span] = []
    for one in inputs:
        if spans and spans[-1].length == len(one):
            spans[-1] = Span(spans[-1].start, spans[-1].count + 1, len(one))
        else:
            spans.append(Span(spans[-1].stop if spans else 0, 1, len(one)))
    return spans


def _layer(layer: Any, activation: str, kind: Kind) -> _Layer:
    own = layer.attention.self
    parts = (own.query, own.key, own.value)
    after, output = layer.attention.output, layer.output
    return _Layer(
        queries_keys_values=linear(
            kind,
            torch.cat([part.weight.detach() for part in parts]),
            torch.cat([part.bias.detach() for part in parts]),
        ),
        attended=linear(kind, after.dense.weight, after.dense.bias),
        attended_norm=layer_norm(after.LayerNorm),
        wide=linear(
            kind,
            layer.intermediate.dense.weight,
            layer.intermediate.dense.bias,
            ACTIVATIONS[activation],
        ),
        narrow=linear(kind, output.dense.weight, output.dense.bias),
        norm=layer_norm(output.LayerNorm),
    )


def _refuse_variants(config: Any) -> None:
    kind = getattr(config, "position_embedding_type", None) or "absolute"
    if kind != "absolute":
        raise WeightsError(
            f"this checkpoint's positions are {kind!r}, only 'absolute' ones are supported; "
            "serve another encoder"
        )
    if config.hidden_act not in ACTIVATIONS:
        raise WeightsError(
            f"this checkpoint's activation {config.hidden_act!r} is not supported, only "
            f"{', '.join(sorted(ACTIVATIONS))}; serve another encoder"
        )
    if getattr(config, "is_decoder", False):
        raise WeightsError(
            "this checkpoint is a BERT that decodes, whose tokens see only what is before them; "
            "serve an encoder"
        )
