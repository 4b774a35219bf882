"""The GGUF format in tables, and the bounds that we set to it. Facts only; `gguf` reads files."""

from __future__ import annotations

from dataclasses import dataclass

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 512 * 1024 * 1024
MAX_KEYS = 65_536
MAX_TENSORS = 262_144
MAX_KEY_BYTES = 65_535
MAX_NAME_BYTES = 63
"""Of a tensor; llama.cpp keeps 64 bytes, with the zero at the end."""
MAX_TEXT_BYTES = 4 * 1024 * 1024
MAX_STRINGS = 4_000_000
"""Over all arrays of a file; the largest vocabularies have 256,000 tokens and 500,000 merges."""
MAX_ARRAY = 16_777_216
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 4096
MAX_SHARDS = 1024
DEFAULT_ALIGNMENT = 32
READ_BYTES = 1 << 20

# Value types of the format: struct code, or None for the two that are no fixed number of bytes.
NUMBERS: dict[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
TYPE_NAMES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool", "string", "array",
    "uint64", "int64", "float64",
)  # fmt: skip
INT32, FLOAT32, BOOL, STRING, ARRAY = 5, 6, 7, 8, 9

TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2),
    26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip
"""Number -> name, elements of a block, bytes of a block."""

TOKENS = "tokenizer.ggml.tokens"
# Typed-array confusion in the vocabulary is read out of bounds by llama.cpp.
ELEMENTS = {
    TOKENS: STRING,
    "tokenizer.ggml.merges": STRING,
    "tokenizer.ggml.scores": FLOAT32,
    "tokenizer.ggml.token_type": INT32,
}
POSITIVE = (".context_length", ".embedding_length", ".block_count", ".attention.head_count")
TEXTS = ("general.architecture", "general.name", "tokenizer.chat_template", "tokenizer.ggml.model")

# llama.cpp asserts these, or divides by them.
MOST = {".block_count": 512, ".expert_count": 1024}
EPSILON = "_epsilon"
NO_WEIGHTS = {"I8", "I16", "I32", "I64", "F64"}
"""Types that llama.cpp multiplies nothing with; it crashes on matrices of them."""
TABLE_NAME = "tid2eid"
"""Some models keep a table of numbers under a name that looks like a matrix."""

NO_TEXT = {
    "clip": "a projector for images or sound",
    "wavtokenizer-dec": "a decoder of sound",
    **dict.fromkeys(("t5", "t5encoder"), "an encoder, or half of it one"),
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), "a diffusion model"),
}
"""Architectures that llama.cpp knows, and does not write one token after another with."""

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class Array:
    """An array's type and length; its elements are not kept."""

    element: str
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    type: str
    elements: int
    data_bytes: int
