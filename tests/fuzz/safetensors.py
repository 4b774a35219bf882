"""Fuzzes the header reader of safetensors files."""

from __future__ import annotations

import json
from pathlib import Path

from .guided import main


def seeds() -> list[bytes]:
    """Two small whole files."""
    found = []
    for names in (("a",), ("layer.0.weight", "layer.1.weight", "b")):
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        for place, name in enumerate(names):
            offsets = [8 * place, 8 * place + 8]
            header[name] = {"dtype": "F32", "shape": [2], "data_offsets": offsets}
        text = json.dumps(header).encode()
        found.append(len(text).to_bytes(8, "little") + text + bytes(8 * len(names)))
    return found


def read(path: Path) -> object:
    from open_llm_server.engine.safetensors_header import read_header

    return read_header(path)


if __name__ == "__main__":
    main(read, seeds(), module="open_llm_server.engine.safetensors_header")
