"""Makes Llama-architecture GGUF files with random weights, of any size, from a seed.

The benchmark's model has a quarter of a billion parameters; tests make tiny ones. The vocabulary
is real enough to turn any text into tokens and back.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

BUILD = Path(__file__).resolve().parent.parent / ".bench"
"""Where made models are kept; git ignores it."""

NUM_CONTROL = 3
NUM_BYTES = 256
SPACE = "\u2581"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TYPES = {
    "F32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "F16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "Q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


@dataclass(frozen=True)
class Shape:
    """A Llama model in numbers."""

    width: int = 1024
    layers: int = 16
    heads: int = 16
    feed_forward: int = 2560
    vocabulary: int = 32_000
    context_length: int = 4096
    type: str = "Q8_0"
    seed: int = 0

    @property
    def label(self) -> str:
        return (
            f"random-{self.width}x{self.layers}-{self.vocabulary}-{self.type}-{self.seed}".lower()
        )


BENCH = Shape()
SMALL = Shape(
    width=64, layers=2, heads=4, feed_forward=128, vocabulary=512, context_length=512, type="F32"
)


def cached(shape: Shape = BENCH, folder: Path = BUILD) -> Path:
    """The file of `shape` in `folder`, made now if it is not there."""
    path = folder / f"{shape.label}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_model(path, shape)
    return path


def write_model(
    path: Path,
    shape: Shape,
    *,
    add_vocabulary: Callable[[gguf.GGUFWriter, int], None] | None = None,
    architecture: str = "llama",
    broken_token: int | None = None,
) -> None:
    """Writes the file in one go: a reader never sees half of it.

    `broken_token`: its embedding is not a number, and so is all that follows from it.
    """
    partial = path.with_suffix(f".{os.getpid()}.part")
    writer = gguf.GGUFWriter(partial, architecture)
    writer.add_name(shape.label)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(TYPES[shape.type][1])
    (add_vocabulary or _add_vocabulary)(writer, shape.vocabulary)
    writer.add_chat_template(CHAT_TEMPLATE)
    _add_weights(writer, shape, broken_token)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def pieces(count: int) -> list[str]:
    """`count` texts, each the sum of two earlier ones, so that merging can reach all of them."""
    letters = [SPACE, *"etaoinshrdlucmfwypvbgkjqxz", *"ETAOINSHRDLUCMFWYPVBGKJQXZ0123456789"]
    found = [*letters, *".,;:!?'\"()-+*/=<>[]{}_@#$%&|\\~^`"][:count]
    vowels, consonants = "eaoiu", "tnshrdlcmfwpvbgkjz"
    syllables = [c + v for c, v in itertools.product(consonants, vowels)]
    syllables += [a + b for a, b in itertools.product(syllables, consonants)]
    for head, tail in itertools.chain(
        ((s[:-1], s[-1]) for s in syllables),
        ((SPACE, s) for s in syllables),
        itertools.product([SPACE + s for s in syllables], syllables),
    ):
        if len(found) >= count:
            break
        found.append(head + tail)
    return found[:count]


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    words = pieces(size - NUM_CONTROL - NUM_BYTES)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(NUM_BYTES)), *words]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * NUM_BYTES + [gguf.TokenType.NORMAL] * len(words)
    # Longer pieces merge first.
    scores = [0.0] * (NUM_CONTROL + NUM_BYTES) + [
        len(word) * 1000.0 - place / len(words) for place, word in enumerate(words)
    ]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def _add_weights(writer: gguf.GGUFWriter, shape: Shape, broken_token: int | None) -> None:
    random = np.random.default_rng(shape.seed)
    kind = TYPES[shape.type][0]

    def matrix(name: str, rows: int, columns: int, *, mute: int = 0) -> None:
        values = random.standard_normal((rows, columns), dtype=np.float32)
        values *= np.float32(columns**-0.5)
        values[:mute] = 0
        if broken_token is not None and name.startswith("token_embd"):
            values[broken_token] = np.nan
        add(name, values)

    def add(name: str, values: npt.NDArray[np.float32]) -> None:
        if kind is gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    width, hidden = shape.width, shape.feed_forward
    ones = np.ones(width, np.float32)
    matrix("token_embd.weight", shape.vocabulary, width)
    for layer in range(shape.layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{layer}.{name}.weight", width, width)
        matrix(f"blk.{layer}.ffn_gate.weight", hidden, width)
        matrix(f"blk.{layer}.ffn_up.weight", hidden, width)
        matrix(f"blk.{layer}.ffn_down.weight", width, hidden)
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", ones)
    writer.add_tensor("output_norm.weight", ones)
    # Control and byte tokens are never the likeliest: answers are as long as was asked for.
    matrix("output.weight", shape.vocabulary, width, mute=NUM_CONTROL + NUM_BYTES)
