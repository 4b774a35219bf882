"""How long the gate takes for models of 5 GB: `python -m benchmarks.gate`.

The files are sparse: neither the gate nor a start reads weights, and what they read is of the size
that large vocabularies have.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf

from open_llm_server.engine.gguf import read_header
from open_llm_server.engine.torch_checkpoint import read_checkpoint
from open_llm_server.flan_t5 import FlanT5
from open_llm_server.llama import Llama
from open_llm_server.store.gate import check_model

from . import report
from .models import CHAT_TEMPLATE

SIZE = 5 * 10**9
TARGET_S = 1.0
WIDTH, FILES = 4096, 8
WORDS = 250_000
"""As BLOOM's vocabulary."""
TOKENS, MERGES = 128_000, 280_000
"""As Llama 3's."""


def make_gguf(path: Path, size: int) -> None:
    """A header with the vocabulary of a large model, and nothing but holes after it."""
    writer = gguf.GGUFWriter(path, "llama")
    for add in (writer.add_context_length, writer.add_embedding_length, writer.add_block_count):
        add(32)
    writer.add_head_count(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"word{number}" for number in range(TOKENS)])
    writer.add_token_types([1] * TOKENS)
    writer.add_token_merges([f"w o{number}" for number in range(MERGES)])
    writer.add_chat_template(CHAT_TEMPLATE)
    kind, block = gguf.GGMLQuantizationType.Q8_0, WIDTH * WIDTH // 32 * 34
    for number in range(max(1, size // block)):
        writer.add_tensor_info(f"blk.{number}.weight", (WIDTH, WIDTH), kind, block, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 64 + max(1, size // block) * block)


def make_checkpoint(folder: Path, size: int) -> None:
    """A checkpoint in several files, with a tokenizer of BLOOM's size."""
    each, tensor = size // FILES, WIDTH * WIDTH * 2
    table = {}
    for number in range(1, FILES + 1):
        name = f"model-{number:05d}-of-{FILES:05d}.safetensors"
        names = [f"layer.{number}.{part}.weight" for part in range(max(1, each // tensor))]
        table.update(dict.fromkeys(names, name))
        header = {
            key: {
                "dtype": "BF16",
                "shape": [WIDTH, WIDTH],
                "data_offsets": [place * tensor, (place + 1) * tensor],
            }
            for place, key in enumerate(names)
        }
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + len(names) * tensor)
    words = {f"word{number}": number for number in range(WORDS)}
    tokenizer = {"model": {"vocab": words, "merges": [f"w o{n}" for n in range(WORDS)]}}
    contents = {
        "model.safetensors.index": {"metadata": {}, "weight_map": table},
        "config": {"model_type": "t5", "vocab_size": WORDS},
        "tokenizer": tokenizer,
        "tokenizer_config": {"chat_template": CHAT_TEMPLATE},
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(folder: Path, size: int, rounds: int) -> list[report.Row]:
    (folder / "gguf").mkdir()
    (folder / "checkpoint").mkdir()
    file = folder / "gguf" / "model.gguf"
    make_gguf(file, size)
    make_checkpoint(folder / "checkpoint", size)
    works: dict[str, Callable[[], object]] = {
        "GGUF: import": lambda: check_model(
            file.parent, weights="gguf", main=file.name, family=Llama
        ),
        "GGUF: start": lambda: read_header(file),
        "checkpoint: import": lambda: check_model(
            folder / "checkpoint", weights="folder", main=None, family=FlanT5
        ),
        "checkpoint: start": lambda: read_checkpoint(folder / "checkpoint", model_types=["t5"]),
    }
    rows = []
    for what, work in works.items():
        took = [seconds(work) for _ in range(rounds)]
        rows.append(
            report.Row(
                what,
                statistics.median(took),
                "s",
                TARGET_S,
                at_least=False,
                detail=f"{size / 1e9:.3g} GB, {min(took):.2f}-{max(took):.2f}",
            )
        )
    return rows


def run(rounds: int, *, size: int = SIZE, folder: Path | None = None) -> list[report.Row]:
    """`folder`: on the disk to measure; default: that of TMPDIR."""
    with tempfile.TemporaryDirectory(prefix="olm-gate-", dir=folder) as name:
        return measure(Path(name), size, rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", type=int, default=SIZE, help="of the weights")
    parser.add_argument("--folder", type=Path, help="for sparse files; default: of TMPDIR")
    chosen = parser.parse_args(arguments)
    about = report.machine()
    rows = run(chosen.rounds, size=chosen.bytes, folder=chosen.folder)
    print(report.show(rows, about))
    return 1 if any(row.passed is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
