"""How much memory llama.cpp takes for a GGUF file, out of the file's header alone.

Knows how `llama_cpp` lays out its contexts: a sequence for each slot, keys and values in 16 bits
(in 32 where the weights are), flash attention, one step of `BATCH_TOKENS`. Imports no llama.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .fit_sizes import GPU_CONTEXT_BYTES, MIB, Sizes
from .gguf import Header, read_header

BATCH_TOKENS = 512
"""Tokens of a step. More makes a prompt no faster on a CPU, and a step others wait in longer."""
CELL_PADDING = 256
"""llama.cpp rounds the cells of a sequence up to a multiple of this."""
MOVING = 2
"""Sequences whose tokens may be on the way to another place in memory, at most."""
MOST_SEQUENCES = 256
"""llama.cpp's own limit."""

_F32_FILE = 0  # general.file_type
_PROCESS = 96 * MIB
"""A runner with this engine in it and a model of no size, measured: 72 MiB, and its child for
templates: 10."""
_GRAPH = 8 * MIB
"""Graphs, their allocator, and the working memory of the smallest products."""
_VOCABULARY_ENTRY = 220
"""Bytes of one token's text, score and places in llama.cpp's tables, measured."""
_EMBEDDER_SHARE = 0.5
"""An embedder's steps are half as long as the engine's (`llama_embedding.CHUNK_TOKENS`)."""
_USUAL_CONTEXT = 4096


@dataclass(frozen=True)
class Cells:
    """What one token takes in a context."""

    values: int
    """Numbers, over all layers."""
    widest: int
    """Numbers of the layer that keeps the most."""
    number_bytes: int

    @property
    def bytes(self) -> int:
        return self.values * self.number_bytes

    @classmethod
    def of(cls, header: Header) -> Cells:
        """By the tensors that make keys and values, else by the header's counts of heads."""
        layers = _kv_widths(header)
        wide = header.number("general.file_type") == _F32_FILE
        return cls(sum(layers), max(layers, default=0), 4 if wide else 2)


def sizes(path: Path, *, gpu: bool = False, lora: Sequence[str] = ()) -> Sizes:
    """Of the GGUF file at `path`. Raises WeightsError for a file that cannot be read."""
    header = read_header(path)
    adapters = sum(_bytes(read_header(Path(file), adapter=True)) for file in lora)
    cells = Cells.of(header)
    weights = _bytes(header) + adapters
    width = header.number(f"{header.architecture}.embedding_length") or 0
    vocabulary, embedding = _vocabulary(header)
    inner = _feed_forward(header)
    # The widest point of the graph: logits, or a gate with what it is multiplied with.
    compute = 4 * BATCH_TOKENS * max(vocabulary + 2 * width, 3 * inner + 5 * width)
    outputs = 4 * BATCH_TOKENS * vocabulary
    work = 2 * BATCH_TOKENS * max(inner, width)
    table = _VOCABULARY_ENTRY * vocabulary
    steps = round(compute * (1 + _EMBEDDER_SHARE)) + work + _GRAPH
    mask = round(2 * BATCH_TOKENS * (1 + _EMBEDDER_SHARE))
    host = _PROCESS + table + outputs
    return Sizes(
        weights=weights,
        token=cells.bytes,
        trained=header.context_length or _USUAL_CONTEXT,
        fixed=steps + (GPU_CONTEXT_BYTES if gpu else host),
        per_position=mask,
        # Attention in 16 bits reads a copy of a layer that is kept in 32.
        per_cell=2 * cells.widest if cells.number_bytes == 4 else 0,
        # The table of embeddings stays in main memory.
        host=host + embedding if gpu else 0,
        multiple=CELL_PADDING,
        moving=MOVING,
        most_sequences=MOST_SEQUENCES,
    )


def _bytes(header: Header) -> int:
    return sum(tensor.data_bytes for tensor in header.all_tensors)


def _vocabulary(header: Header) -> tuple[int, int]:
    """Tokens, and the bytes of their embeddings."""
    for tensor in header.all_tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[-1], tensor.data_bytes
    return 0, 0


def _feed_forward(header: Header) -> int:
    """Numbers within the widest feed-forward part, for each token."""
    used = header.number(f"{header.architecture}.expert_used_count") or 1
    found = 0
    for tensor in header.all_tensors:
        if ".ffn_" in tensor.name and tensor.name.endswith("weight") and len(tensor.shape) > 1:
            experts = used if "_exps" in tensor.name else 1
            found = max(found, tensor.shape[1] * experts)
    return found


def _kv_widths(header: Header) -> list[int]:
    """Keys and values of one token in each layer, in numbers."""
    outputs = {tensor.name: tensor.shape[-1] for tensor in header.all_tensors}
    prefix = f"{header.architecture}.attention"
    heads = header.number(f"{prefix}.head_count") or 1
    width = header.number(f"{header.architecture}.embedding_length") or 0
    key = header.number(f"{prefix}.key_length") or width // heads
    value = header.number(f"{prefix}.value_length") or width // heads
    # A count for each layer is an array, which the header does not keep.
    stated = f"{prefix}.head_count_kv"
    shared = header.number(stated) if stated in header.metadata else heads
    found = []
    for layer in range(header.number(f"{header.architecture}.block_count") or 0):
        name = f"blk.{layer}.attn_"
        if f"{name}k.weight" in outputs:
            keys = outputs[f"{name}k.weight"]
            found.append(keys + outputs.get(f"{name}v.weight", keys))
        elif shared is not None:
            found.append(shared * (key + value))
        else:
            found.append(max(0, outputs.get(f"{name}qkv.weight", 0) - heads * key))
    return found
