"""Fuzzes the header reader of GGUF files."""

from __future__ import annotations

import struct
from pathlib import Path

from .guided import main


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def _key(name: bytes, kind: int, value: bytes) -> bytes:
    return _text(name) + struct.pack("<I", kind) + value


def seeds() -> list[bytes]:
    """A small whole file with every kind of value, and one without tensors."""
    keys = [
        _key(b"general.architecture", 8, _text(b"llama")),
        _key(b"general.alignment", 4, struct.pack("<I", 32)),
        _key(b"llama.block_count", 4, struct.pack("<I", 2)),
        _key(b"llama.rope.freq_base", 6, struct.pack("<f", 1e4)),
        _key(b"split.count", 2, struct.pack("<H", 1)),
        _key(b"tokenizer.ggml.add_bos_token", 7, b"\1"),
        _key(b"tokenizer.chat_template", 8, _text(b"{{ messages }}")),
        _key(
            b"tokenizer.ggml.tokens",
            9,
            struct.pack("<IQ", 8, 2) + _text(b"<s>") + _text(b"a"),
        ),
        _key(b"tokenizer.ggml.scores", 9, struct.pack("<IQff", 6, 2, 0, 1)),
    ]
    tensors = [
        _text(name) + struct.pack("<IQQIQ", 2, 4, 2, 0, 32 * place)
        for place, name in enumerate((b"token_embd.weight", b"output.weight"))
    ]
    found = []
    for parts in (tensors, []):
        head = b"GGUF" + struct.pack("<IQQ", 3, len(parts), len(keys))
        body = head + b"".join(keys) + b"".join(parts)
        found.append(body + b"\0" * (-len(body) % 32 + 32 * len(parts)))
    return found


def read(path: Path) -> object:
    from open_llm_server.engine.gguf import read_header

    return read_header(path)


if __name__ == "__main__":
    main(read, seeds(), module="open_llm_server.engine.gguf")
