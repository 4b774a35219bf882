"""Tokeniser files: opened as vocabularies, edited, and read for what they say themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from open_llm_server.engine.torch_checkpoint import Checkpoint
from open_llm_server.engine.torch_vocab import Vocabulary

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def checkpoint(folder: Path) -> Checkpoint:
    generation = folder / "generation_config.json"
    return Checkpoint(
        folder,
        json.loads((folder / "config.json").read_text()),
        json.loads(generation.read_text()) if generation.is_file() else {},
    )


def open_folder(folder: Path, *end_texts: str) -> Vocabulary:
    return Vocabulary(checkpoint(folder), end_texts=end_texts)


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def spelled(vocabulary: Vocabulary, tokens: Collection[int]) -> bytes:
    return b"".join(map(vocabulary.piece, tokens))


def control_ids(folder: Path) -> set[int]:
    """Ids of special tokens, by the file's own word; not the one for unknown text."""
    content = json.loads((folder / "tokenizer.json").read_text())
    unknown = {"<unk>", "[UNK]"}
    return {
        entry["id"]
        for entry in content["added_tokens"]
        if entry["special"] and entry["content"] not in unknown
    }
