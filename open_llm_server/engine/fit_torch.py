"""How much memory torch takes for a checkpoint, out of config.json and the weights' headers alone.

Knows how `torch_engine` and `torch_encoder` load: transformers reads the weights, layers are laid
out anew one by one, each slot gets a row of the cache. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .fit_sizes import GPU_CONTEXT_BYTES, MIB, Sizes
from .int8_format import SCALE, is_int8
from .processor import fast_number
from .safetensors_header import Tensor, read_header
from .torch_checkpoint import Checkpoint, read_json

BATCH_TOKENS = 512
"""Tokens of a step. More makes a prompt no faster on a CPU, and a step others wait in longer."""
ENCODER_BATCH_TOKENS = 2048
"""Tokens of a pass. More makes it no faster on a CPU, and others wait longer for their turn."""
SCORED_LINES = 64
"""Log-probabilities of so many prompt tokens are computed at once: a large vocabulary times a
whole prompt would be gigabytes."""
LARGE_HEAD_BYTES = 200 * MIB
"""An output matrix that is the embedding as well is laid out anew up to this size: beyond it the
second copy costs more memory than its speed is worth."""
DEFAULT_ENCODER_DECODER = 2048
"""T5 has no longest position. It was trained with 512 tokens on each side, and reads more."""

_NUMBERS = {"float32": ("F32", 4), "bfloat16": ("BF16", 2), "float16": ("F16", 2)}
"""What each is called in a file, and its bytes."""
_PROCESS = 336 * MIB
"""A runner with this engine in it and a model of no size, measured: 163 MiB for the libraries, 114
for what they import and build when they load, 50 for everything else."""
_PRODUCTS = 64 * MIB
"""What oneDNN keeps of the products it made code for, at the most (`config.devices.PRODUCTS`)."""
_ADAPTING = 128 * MIB
"""The library that merges adapters."""
_VOCABULARY_ENTRY = 1000
"""Bytes of one token in the tables of its tokeniser and ours, measured: 230 to 1000."""
_ACTIVATIONS = 16
"""Widths of hidden states that one token of a step has in memory at once."""
_MASK_BYTES = 9
"""For each query and key beside the mask itself: their distance, and whether it is hidden."""
_TABLES = (
    "embed_in", "embed_tokens", "word_embeddings", "position_embeddings", "token_type_embeddings",
    "relative_attention_bias", "shared",
)  # fmt: skip
_HEADS = ("lm_head.weight", "embed_out.weight")
_BUFFERS = ("inv_freq", "masked_bias", "attention.bias", "position_ids")


@dataclass(frozen=True)
class Cache:
    """Keys and values of a decoder."""

    values: int
    """Numbers of one token, over all layers."""
    trained: int
    """Tokens of context that the model was made for."""
    unbounded: bool
    """Longer contexts than that are usual."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Cache:
        """`config`: config.json, or transformers' own as a dictionary."""
        if is_encoder_decoder(config):
            layers = _number(config, "num_decoder_layers", "num_layers")
            width = _number(config, "num_heads") * _number(config, "d_kv")
            # Keys and values of prompts and of answers.
            return cls(4 * layers * width, DEFAULT_ENCODER_DECODER, unbounded=True)
        heads = _number(config, "num_attention_heads", "n_head", least=1)
        size = _number(config, "head_dim") or _hidden(config) // heads
        kept = _number(config, "num_key_value_heads") or heads
        # BLOOM's linear bias has no longest position; published models were trained with 2048.
        trained = _number(config, "max_position_embeddings", "seq_length") or 2048
        layers = _number(config, "num_hidden_layers", "n_layer")
        return cls(2 * layers * kept * size, trained, config.get("model_type") == "bloom")


def is_encoder_decoder(config: Mapping[str, Any]) -> bool:
    return bool(config.get("is_encoder_decoder")) or config.get("model_type") == "t5"


def sizes(folder: Path, *, dtype: str, gpu: bool = False, lora: Sequence[str] = ()) -> Sizes:
    """Of the checkpoint in `folder`, computed in `dtype` (as in a configuration; `auto` too).

    Raises WeightsError for a folder that is no checkpoint.
    """
    checkpoint = Checkpoint(folder, read_json(folder / "config.json"), {})
    config = checkpoint.config
    kind, name = _precision(dtype, gpu=gpu, stored=is_int8(config))
    file_name, number = _NUMBERS[name]
    weights = _Weights.of(checkpoint)
    encoder = config.get("model_type") == "bert"
    kept = weights.kept(kind, number, generates=not encoder)
    adapters = sum(
        file.stat().st_size for each in lora for file in Path(each).glob("*.safetensors")
    )
    adapting = adapters * number // 2 + _ADAPTING if lora else 0
    vocabulary, hidden = _number(config, "vocab_size"), _hidden(config)
    process = _PROCESS + _VOCABULARY_ENTRY * vocabulary
    loading = weights.loading(kind, number, kept, mapped=weights.types == {file_name})
    beside = GPU_CONTEXT_BYTES if gpu else process + (_PRODUCTS if kind == "packed" else 0)
    steps = _encoding(config, hidden, number) if encoder else _decoding(config, hidden, number)
    return Sizes(
        weights=kept,
        fixed=beside + steps.pop("fixed"),
        loading=(0 if gpu else loading) + adapting,
        host=process + kept + loading if gpu else 0,
        **steps,
    )


def _decoding(config: Mapping[str, Any], hidden: int, number: int) -> dict[str, Any]:
    """What steps take, in fields of `Sizes`."""
    cache = Cache.of(config)
    vocabulary = _number(config, "vocab_size")
    heads = _number(config, "num_attention_heads", "n_head", "num_heads", least=1)
    mask = number + _MASK_BYTES
    if config.get("model_type") == "bloom":
        mask = heads * (number + 4) + _MASK_BYTES
    square = heads * number + 2 * 8 if is_encoder_decoder(config) else 0
    return {
        "token": cache.values * number,
        "trained": cache.trained,
        "unbounded": cache.unbounded,
        "fixed": 4 * (_ACTIVATIONS * BATCH_TOKENS * hidden + 3 * SCORED_LINES * vocabulary),
        "per_sequence": 4 * 4 * vocabulary,
        # The angles of rotary positions, and the mask of one step.
        "per_position": 4 * (hidden // heads) * 4 + BATCH_TOKENS * mask,
        # An encoder's bias, for every pair of tokens of a prompt.
        "per_square": square,
        "moving": 1,
    }


def _encoding(config: Mapping[str, Any], hidden: int, number: int) -> dict[str, Any]:
    positions = _number(config, "max_position_embeddings", least=1)
    tokens = max(ENCODER_BATCH_TOKENS, positions)
    return {
        "token": 0,
        "trained": positions,
        "fixed": number * _ACTIVATIONS * tokens * hidden,
    }


@dataclass(frozen=True)
class _Weights:
    """A checkpoint's parameters, counted."""

    linear: int
    """Numbers in matrices of linear layers."""
    others: int
    """Numbers in embeddings, norms and biases."""
    largest: int
    """Numbers of the largest one."""
    table: int
    """Numbers of an embedding that is the output matrix as well; else 0."""
    types: frozenset[str]
    """Of the numbers, as files call them."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> _Weights:
        linear = others = largest = 0
        names, types = set(), set()
        for name, tensor in _parameters(checkpoint):
            names.add(name)
            types.add(tensor.dtype)
            count = _elements(tensor)
            largest = max(largest, count)
            if len(tensor.shape) == 2 and not any(table in name for table in _TABLES):
                linear += count
            else:
                others += count
        config = checkpoint.config
        tied = not any(head in names for head in _HEADS)
        table = _number(config, "vocab_size") * _hidden(config) if tied else 0
        return cls(linear, others, largest, table, frozenset(types))

    def kept(self, kind: str, number: int, *, generates: bool) -> int:
        """Bytes once the model stands, in numbers of `number` bytes."""
        table = self.table if generates else 0
        if kind == "int8":
            return self.linear + table + self.others * number
        copied = table * number if kind == "packed" else 0
        if copied > LARGE_HEAD_BYTES:
            copied = 0
        return (self.linear + self.others) * number + copied

    def loading(self, kind: str, number: int, kept: int, *, mapped: bool) -> int:
        """Bytes beside `kept` while the model is loaded: layers are laid out anew one by one.

        `mapped`: the file has the numbers that are computed with, and they stay there till then.
        """
        largest = self.largest * number
        if kind == "int8" and "I8" not in self.types:
            wide = 0 if mapped else (self.linear + self.others) * number - kept
            return max(0, wide + 3 * largest)
        return 0 if mapped and kind == "plain" else largest * 9 // 4


def _parameters(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """The tensors that become parameters; what is there twice, once."""
    for path in checkpoint.weights:
        tensors = read_header(path).tensors
        for name, tensor in tensors.items():
            twice = name.endswith("embed_tokens.weight") and "shared.weight" in tensors
            if not (twice or name.endswith(_BUFFERS) or name.endswith(SCALE)):
                yield name, tensor


def _elements(tensor: Tensor) -> int:
    count = 1
    for length in tensor.shape:
        count *= length
    return count


def _precision(dtype: str, *, gpu: bool, stored: bool) -> tuple[str, str]:
    """Kind of linear layers, and the numbers beside them, as `torch_engine` chooses. `stored`: the
    checkpoint's own layers are in 8 bits."""
    if not gpu and (dtype == "int8" or (dtype == "auto" and stored)):
        return "int8", "float32"
    name = ("bfloat16" if gpu else fast_number()) if dtype == "auto" else dtype
    name = name if name in _NUMBERS else "float32"
    return ("packed" if name == "bfloat16" and not gpu else "plain"), name


def _hidden(config: Mapping[str, Any]) -> int:
    return _number(config, "n_embed", "hidden_size", "d_model")


def _number(config: Mapping[str, Any], *names: str, least: int = 0) -> int:
    """The first of `names` that is there as a number; `least` where none is."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return max(least, value)
    return least
