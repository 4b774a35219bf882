"""The fixture that starts real servers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from running import HANG_S, Running, StartServer

from open_llm_server.serving import start

with warnings.catch_warnings():
    # Libraries under BentoML warn at import.
    warnings.simplefilter("ignore")
    import bentoml._internal.server.http_app  # noqa: F401


@pytest.fixture
def server() -> Iterator[StartServer]:
    """Starts servers on free ports: `server("one=fake,two=fake", sets=["one.step_s=0.1"])`.

    Keywords are those of `open_llm_server.start`. What a test leaves running is ended.
    """
    started: list[Running] = []

    def begin(models: str, **options: Any) -> Running:
        running = Running(start(models, **{"port": 0, "wait_s": HANG_S, **options}))
        started.append(running)
        return running

    yield begin
    for running in started:
        running.end()
