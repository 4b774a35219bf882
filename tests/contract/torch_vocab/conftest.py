"""Checkpoints of every kind with their vocabularies, opened once: no test changes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import EVERY

from open_llm_server.engine.torch_vocab import Vocabulary

from .files import open_folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("vocabularies")
    return {name: make(root / name) for name, make in EVERY.items()}


@pytest.fixture(scope="session")
def vocabularies(folders: dict[str, Path]) -> dict[str, Vocabulary]:
    return {name: open_folder(folder) for name, folder in folders.items()}
