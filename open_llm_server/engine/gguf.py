"""Reads and judges the header of a GGUF file, before native code sees the file.

Refuses what is damaged or made to do damage; llama.cpp ends its process on some of it. Pure
Python: bounded reads, no tensor data, a second at most for any file.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NoReturn

from ..errors import WeightsError
from .gguf_faults import faults
from .gguf_format import (
    ARRAY,
    BOOL,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_ALIGNMENT,
    MAX_ARRAY,
    MAX_DIMENSIONS,
    MAX_HEADER_BYTES,
    MAX_KEY_BYTES,
    MAX_KEYS,
    MAX_NAME_BYTES,
    MAX_STRINGS,
    MAX_TENSORS,
    MAX_TEXT_BYTES,
    NO_TEXT,
    NO_WEIGHTS,
    NUMBERS,
    READ_BYTES,
    STRING,
    TABLE_NAME,
    TENSOR_TYPES,
    TOKENS,
    TYPE_NAMES,
    VERSIONS,
    Array,
    Scalar,
    Tensor,
)
from .gguf_shards import read_shards


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself. `shards`: the files that follow this one, if any."""

    path: Path
    version: int
    metadata: Mapping[str, Scalar | Array]
    tensors: tuple[Tensor, ...]
    file_bytes: int
    shards: tuple[Header, ...] = ()

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def architecture(self) -> str:
        return self.text("general.architecture") or ""

    @property
    def name(self) -> str | None:
        return self.text("general.name")

    @property
    def context_length(self) -> int | None:
        """Tokens that the model was trained for."""
        return self.number(f"{self.architecture}.context_length")

    @property
    def chat_template(self) -> str | None:
        return self.text("tokenizer.chat_template")

    @property
    def all_tensors(self) -> tuple[Tensor, ...]:
        return self.tensors + tuple(t for shard in self.shards for t in shard.tensors)

    @cached_property
    def parameters(self) -> int:
        return sum(tensor.elements for tensor in self.all_tensors)

    @cached_property
    def quantisation(self) -> str:
        """The type that most of the parameters have, as `Q8_0`."""
        counts: Counter[str] = Counter()
        for tensor in self.all_tensors:
            counts[tensor.type] += tensor.elements
        return counts.most_common(1)[0][0]


def read_header(path: Path, *, adapter: bool = False) -> Header:
    """Reads `path`, and the files that belong to it. `adapter`: it must be a LoRA adapter.

    Raises WeightsError, which names the file, the fault and what to do.
    """
    header = _read_one(path)
    found = header.text("general.type") == "adapter"
    if found != adapter:
        kinds = ("a LoRA adapter", "a model")
        raise WeightsError(
            f"{path} is {kinds[not found]}, not {kinds[found]}; give a model as SOURCE and "
            "its adapters with --lora"
        )
    if not adapter:
        _refuse_without_text(header)
    shards = read_shards(header, _read_one)
    if not header.tensors and not shards:
        raise WeightsError(
            f"{path} holds no weights (a vocabulary alone); use the model's own file"
        )
    return Header(
        header.path, header.version, header.metadata, header.tensors, header.file_bytes, shards
    )


def _refuse_without_text(header: Header) -> None:
    kind = NO_TEXT.get(header.architecture)
    type_ = header.text("general.type") or "model"
    if kind is None and type_ != "model":
        kind = f"a file of type {type_[:40]!r}"
    if kind:
        raise WeightsError(
            f"{header.path} is {kind} ({header.architecture[:40]}), and no model that writes text; "
            "use a GGUF file of a decoder-only transformer (Llama, Mistral, Qwen, Gemma, …)"
        )


def _read_one(path: Path) -> Header:
    try:
        size = path.stat().st_size
        with path.open("rb", buffering=READ_BYTES) as file:
            return _Reader(path, file, size).header()
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read: {error.strerror or error}; give the path of a .gguf file"
        ) from error


class _Reader:
    """Walks through one file, and stops at the first fault."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path = path
        self._file = file
        self._size = size
        self._at = 0
        self._strings = 0

    def header(self) -> Header:
        version, tensor_count, key_count = self._start()
        metadata: dict[str, Scalar | Array] = {}
        for _ in range(key_count):
            key = self._text(MAX_KEY_BYTES, "a key")
            if not key or key in metadata:
                self._refuse(f"the key '{key[:80]}' is empty or there twice")
            metadata[key] = self._value(key)
        for fault in faults(metadata):
            self._refuse(fault)
        alignment = self._alignment(metadata)
        tensors, end = self._tensors(tensor_count, alignment)
        start = -(-self._at // alignment) * alignment
        if start + end > self._size:
            self._refuse(
                f"it ends {start + end - self._size} bytes before its last tensor does: it is "
                "cut off"
            )
        return Header(self._path, version, metadata, tensors, self._size)

    def _start(self) -> tuple[int, int, int]:
        if self._size < 24:
            self._refuse_foreign(self._file.read(24))
        magic = self._take(4)
        if magic != MAGIC:
            self._refuse_foreign(magic + self._take(20))
        version, tensor_count, key_count = struct.unpack("<IQQ", self._take(20))
        if version not in VERSIONS:
            if version & 0xFFFF == 0 and version:
                self._refuse("it is written for big-endian machines; convert it for this one")
            self._refuse(
                f"it has GGUF version {version}, and versions {VERSIONS[0]} and {VERSIONS[1]} "
                "are read; convert the model again with a current llama.cpp"
            )
        if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
            self._refuse(f"it claims {tensor_count} tensors and {key_count} keys")
        return version, tensor_count, key_count

    # -- metadata -------------------------------------------------------------------------

    def _value(self, key: str) -> Scalar | Array:
        kind = self._uint32()
        if kind == STRING:
            return self._text(MAX_TEXT_BYTES, f"the value of {key}")
        if kind == ARRAY:
            return self._array(key)
        if kind not in NUMBERS:
            self._refuse(f"the value of {key} has the unknown type {kind}")
        layout = struct.Struct("<" + NUMBERS[kind])
        (value,) = layout.unpack(self._take(layout.size))
        if kind == BOOL:
            if value > 1:
                self._refuse(f"the value of {key} is neither true nor false")
            return bool(value)
        number: int | float = value
        return number

    def _array(self, key: str) -> Array:
        element, count = struct.unpack("<IQ", self._take(12))
        if element == STRING:
            self._strings += count
            if self._strings > MAX_STRINGS:
                self._refuse(f"{key} has {count} texts")
            self._walk(key, count)
        elif element in NUMBERS:
            if count > MAX_ARRAY:
                self._refuse(f"{key} has {count} elements")
            self._skip(count * struct.calcsize("<" + NUMBERS[element]))
        else:
            self._refuse(f"{key} is an array of type {element}")
        return Array(TYPE_NAMES[element], count)

    def _walk(self, key: str, count: int) -> None:
        """Past the texts of an array. Of the vocabulary, llama.cpp asserts that no token is there
        twice. Half a million of them are common, so this calls nothing but the file."""
        read, at, number = self._file.read, self._at, int.from_bytes
        seen: set[bytes] | None = set() if key == TOKENS else None
        for place in range(count):
            length = number(read(8), "little")
            at += 8 + length
            if length > MAX_KEY_BYTES or at > MAX_HEADER_BYTES:
                self._refuse(f"{key} holds a text of {length} bytes")
            text = read(length)
            if seen is not None and text:
                if text in seen:
                    self._refuse(f"token {place} of its vocabulary is there twice")
                seen.add(text)
            if at > self._size:
                break
        self._at = at
        self._advance(0)

    def _alignment(self, metadata: Mapping[str, Scalar | Array]) -> int:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT:
            self._refuse(f"general.alignment is {alignment!r}")
        if alignment & (alignment - 1):
            self._refuse(f"general.alignment is {alignment}, which is no power of two")
        return alignment

    # -- tensors --------------------------------------------------------------------------

    def _tensors(self, count: int, alignment: int) -> tuple[tuple[Tensor, ...], int]:
        """All tensors, and the end of the last one's data, counted from the first one's."""
        tensors: dict[str, Tensor] = {}
        expected = end = 0
        for _ in range(count):
            tensor, offset = self._tensor()
            if tensor.name in tensors:
                self._refuse(f"the tensor {tensor.name} is there twice")
            if offset != expected:
                self._refuse(f"the tensor {tensor.name} is at {offset} instead of {expected}")
            tensors[tensor.name] = tensor
            end = offset + tensor.data_bytes
            expected = -(-end // alignment) * alignment
        return tuple(tensors.values()), end

    def _tensor(self) -> tuple[Tensor, int]:
        name = self._text(MAX_NAME_BYTES, "a tensor's name")
        dimensions = self._uint32()
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            self._refuse(f"the tensor {name} has {dimensions} dimensions")
        shape = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
        kind, offset = struct.unpack("<IQ", self._take(12))
        if kind not in TENSOR_TYPES:
            self._refuse(
                f"the tensor {name} has the unknown type {kind}; use another quantisation, such "
                "as Q8_0 or Q4_K_M"
            )
        type_name, block, block_bytes = TENSOR_TYPES[kind]
        elements = 1
        for length in shape:
            elements *= length
            # Far from overflow at each step: native code multiplies in 64 bits.
            if length < 1 or elements // block * block_bytes > self._size:
                self._refuse(f"the tensor {name} has the shape {shape}, which is not in the file")
        if shape[0] % block:
            self._refuse(f"the tensor {name} has rows of {shape[0]}, no multiple of {block}")
        if type_name in NO_WEIGHTS and name.endswith(".weight") and TABLE_NAME not in name:
            self._refuse(f"the tensor {name} has the type {type_name}, which is for no weights")
        return Tensor(name, shape, type_name, elements, elements // block * block_bytes), offset

    # -- bytes ----------------------------------------------------------------------------

    def _take(self, count: int) -> bytes:
        self._advance(count)
        data = self._file.read(count)
        if len(data) != count:
            self._refuse("it ends inside its header: it is cut off")
        return data

    def _skip(self, count: int) -> None:
        self._advance(count)
        if count <= 256:  # in the buffer as a rule, and then faster than a seek
            self._file.read(count)
        else:
            self._file.seek(self._at)

    def _advance(self, count: int) -> None:
        self._at += count
        if self._at > self._size:
            self._refuse("it ends inside its header: it is cut off")
        if self._at > MAX_HEADER_BYTES:
            self._refuse(f"its header is longer than {MAX_HEADER_BYTES} bytes")

    def _uint32(self) -> int:
        return int.from_bytes(self._take(4), "little")

    def _length(self, limit: int, what: str) -> int:
        length = int.from_bytes(self._take(8), "little")
        if length > limit:
            self._refuse(f"{what} is a text of {length} bytes")
        return length

    def _text(self, limit: int, what: str) -> str:
        raw = self._take(self._length(limit, what))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self._refuse(f"{what} is not UTF-8")

    def _refuse(self, fault: str) -> NoReturn:
        raise WeightsError(
            f"{self._path} is damaged or not a model for llama.cpp: {fault}. Download or convert "
            "it again"
        )

    def _refuse_foreign(self, head: bytes) -> NoReturn:
        if head.startswith(b"version https://git"):
            why = "it is a pointer of git-lfs; fetch the file itself with `git lfs pull`"
        elif head.lstrip().startswith((b"<", b"{")):
            why = "it is a web page or an error message; download it again"
        elif not head:
            why = "it is empty; download it again"
        else:
            why = "convert the model with llama.cpp's convert_hf_to_gguf.py, or name a .gguf file"
        raise WeightsError(f"{self._path} is not a GGUF file: {why}")
