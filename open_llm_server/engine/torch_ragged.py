"""Rows of different lengths as one batch: tokens packed one after the other, no padding.

Linear layers and norms see [tokens, hidden]; only attention knows that tokens belong to rows. Rows
with one new token each share an attention call, rows with more have one of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .torch_cache import Block

Bias = Callable[[Tensor], Tensor]
"""What a model adds to attention scores: distances between query and key of [rows, queries, keys],
in tokens, negative ahead of the query, become a bias of [rows, heads, queries, keys]."""

WASTE = 2.0
"""Rows that decode together are read to the length of the longest; one call reads at most so many
times what its rows hold, and shorter rows than that get a call of their own."""
SMALL = 512
"""Positions that are not worth a call of their own."""
EXACT = 32
"""Batches of so many tokens are not padded: steps that decode."""
_STEPS = ((64, 8), (128, 16), (512, 32), (math.inf, 128))
"""(up to so many tokens, rounded to a multiple of this)."""
LARGEST_PADDING = 128


@dataclass(frozen=True, slots=True)
class Span:
    """The new tokens of one row of the cache: `count` of them from `position` on."""

    row: int
    position: int
    tokens: Sequence[int]

    @property
    def end(self) -> int:
        return self.position + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Part:
    """One attention call: tokens `first` to `end` of the batch against rows of the cache."""

    first: int
    end: int
    row: int
    row_end: int
    length: int
    mask: Tensor | None
    """Added to the scores, [rows, 1 or heads, queries, length]."""
    causal: bool = False


@dataclass(frozen=True, slots=True)
class Ragged:
    """A batch. `tokens`, `positions`, `places` are of [tokens], int64."""

    tokens: Tensor
    positions: Tensor
    places: Tensor
    """Where each token's keys and values go: row · positions of a row + position."""
    parts: Sequence[Part]

    def to(self, device: torch.device) -> Ragged:
        """The same for layers that lie on another device."""
        if device == self.tokens.device:
            return self
        return Ragged(
            self.tokens.to(device),
            self.positions.to(device),
            self.places.to(device),
            parts_on(self.parts, device),
        )


def parts_on(parts: Sequence[Part], device: torch.device) -> list[Part]:
    """The same attention calls for layers that lie on another device."""
    return [
        part if part.mask is None else replace(part, mask=part.mask.to(device)) for part in parts
    ]


def order(spans: Sequence[Span]) -> list[int]:
    """Indices of `spans` as `pack` wants them: single tokens by row, then the others."""
    return sorted(range(len(spans)), key=lambda i: (len(spans[i].tokens) > 1, spans[i].row))


def padding(count: int) -> int:
    """How many tokens to compute beside `count`, for nobody.

    oneDNN makes code for each size of a product: half a megabyte and half a millisecond the first
    time. Sizes that few steps have are rounded up.
    """
    if count <= EXACT:
        return 0
    step = next(step for limit, step in _STEPS if count <= limit)
    return -count % step


def pack(
    spans: Sequence[Span],
    capacity: int,
    dtype: torch.dtype,
    device: torch.device,
    bias: Bias | None,
    spare: int,
) -> Ragged:
    """`spans` in the order of `order`; `capacity` is the number of positions of a row.

    `spare` is a row that nobody reads: what is padded goes there. Its tokens come last.
    """
    single = sum(len(span.tokens) == 1 for span in spans)
    if padded := padding(sum(len(span.tokens) for span in spans)):
        spans = [*spans, Span(spare, 0, [0] * padded)]
    tokens: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    for span in spans:
        tokens += span.tokens
        positions += range(span.position, span.end)
        base = span.row * capacity
        places += range(base + span.position, base + span.end)
    packed = torch.tensor((tokens, positions, places), device=device)
    parts = decoding_parts([(span.row, span.end) for span in spans[:single]], dtype, device, bias)
    first = single
    for span in spans[single:]:
        parts.append(_prefilling(span, first, dtype, device, bias))
        first += len(span.tokens)
    return Ragged(packed[0], packed[1], packed[2], parts)


def decoding_parts(
    rows: Sequence[tuple[int, int]],
    dtype: torch.dtype,
    device: torch.device,
    bias: Bias | None = None,
) -> list[Part]:
    """Attention of one query a row to (row, length) of the cache, rows in rising order."""
    parts = []
    for first, end in _groups(rows):
        lengths = [length for _, length in rows[first:end]]
        longest = max(lengths)
        mask = None
        if bias is not None or min(lengths) < longest:
            last = torch.tensor(lengths, device=device).view(-1, 1, 1) - 1
            mask = _mask(last - torch.arange(longest, device=device), dtype, bias)
        parts.append(Part(first, end, rows[first][0], rows[end - 1][0] + 1, longest, mask))
    return parts


def _groups(rows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbouring rows that are read together, as (first, end)."""
    groups: list[tuple[int, int]] = []
    first = longest = total = 0
    for index, (row, length) in enumerate(rows):
        if index > first:
            apart = row != rows[index - 1][0] + 1
            together = max(longest, length) * (index - first + 1)
            if apart or (together > WASTE * (total + length) and together - total > SMALL):
                groups.append((first, index))
                first, longest, total = index, 0, 0
        longest, total = max(longest, length), total + length
    if rows:
        groups.append((first, len(rows)))
    return groups


def _prefilling(
    span: Span, first: int, dtype: torch.dtype, device: torch.device, bias: Bias | None
) -> Part:
    count, length = len(span.tokens), span.end
    mask = None
    causal = bias is None and span.position == 0
    if not causal:
        queries = torch.arange(span.position, length, device=device)[None, :, None]
        mask = _mask(queries - torch.arange(length, device=device), dtype, bias)
    return Part(first, first + count, span.row, span.row + 1, length, mask, causal)


def _mask(distances: Tensor, dtype: torch.dtype, bias: Bias | None) -> Tensor:
    """`distances` of [rows, queries, keys]; keys ahead of their query are out."""
    if bias is None:
        mask = torch.zeros(distances.shape, dtype=dtype, device=distances.device).unsqueeze(1)
    else:
        mask = bias(distances).to(dtype)
    return mask.masked_fill_((distances < 0).unsqueeze(1), float("-inf"))


def attend(queries: Tensor, block: Block, parts: Sequence[Part], scale: float) -> Tensor:
    """Attention of `queries`, [tokens, heads, head size], to the cache: [tokens, heads · size]."""
    outputs = [_attend(queries[part.first : part.end], block, part, scale) for part in parts]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend(queries: Tensor, block: Block, part: Part, scale: float) -> Tensor:
    tokens, heads, size = queries.shape
    keys = block.keys(part.row, part.row_end, part.length)
    values = block.values(part.row, part.row_end, part.length)
    shared = heads // keys.shape[1]
    rows = part.row_end - part.row
    if tokens == rows:
        # Heads that share keys and values are queries of one head.
        grouped = queries.view(rows, heads // shared, shared, size)
        mask = part.mask
        if mask is not None and mask.shape[1] > 1 and shared > 1:
            mask = mask.view(rows, heads // shared, shared, part.length)
        result = F.scaled_dot_product_attention(grouped, keys, values, mask, scale=scale)
        return result.reshape(tokens, heads * size)
    result = F.scaled_dot_product_attention(
        queries.transpose(0, 1).unsqueeze(0),
        keys,
        values,
        part.mask,
        is_causal=part.causal,
        scale=scale,
        enable_gqa=shared > 1,
    )
    return result.squeeze(0).transpose(0, 1).reshape(tokens, heads * size)
