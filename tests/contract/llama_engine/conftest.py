"""The engine that these tests share; its slots are empty at the start of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ggufs import SMALL, write_model
from llama_engines import BROKEN, load

from open_llm_server.engine.llama_cpp import LlamaCppEngine


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.gguf"
    write_model(path, SMALL, broken_token=BROKEN)
    return path


@pytest.fixture(scope="module")
def engine(weights: Path) -> Iterator[LlamaCppEngine]:
    loaded = load(weights)
    yield loaded
    loaded.close()


@pytest.fixture(autouse=True)
def empty_slots(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "engine" in request.fixturenames:
        engine = request.getfixturevalue("engine")
        for slot in range(engine.limits.slots):
            engine.forget(slot)
