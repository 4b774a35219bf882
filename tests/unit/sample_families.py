"""Small families that tests of the configuration register for their own time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import pytest
from pydantic import Field

from open_llm_server import LLMRunnable, Registry
from open_llm_server.config.machine import Machine
from open_llm_server.config.schema import ModelConfig

# What the tests' machine has, whatever the real one has.
MACHINE = Machine(cores=8, gpus=("0", "1"))


class SampleConfig(ModelConfig):
    """A family with fields of its own, one of each kind."""

    beams: Annotated[int, Field(ge=1, le=64, description="Beams.")] = 1
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    verbose: bool = False
    extra_words: tuple[str, ...] = ()
    length: int = 0


@contextmanager
def registered(*names: str, plain: tuple[str, ...] = ()) -> Iterator[None]:
    """Families `names` with SampleConfig and `plain` ones with ModelConfig; none has weights.

    They stand in front of this package's own families of the same names.
    """
    families = Registry._added
    hidden = {name: families.pop(name) for name in (*names, *plain) if name in families}
    try:
        for name in (*names, *plain):
            config = SampleConfig if name in names else ModelConfig
            body = {"engine": "sample", "weights": "none", "Config": config}
            family = type(f"Family_{name}", (LLMRunnable,), {**body, "name": name})
            families[name] = family
        yield
    finally:
        for name in (*names, *plain):
            Registry.remove_model(name)
        families.update(hidden)


@contextmanager
def only_samples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The families that most tests use, and none of the variables of whoever runs them."""
    for name in [name for name in os.environ if name.startswith("OPEN_LLM_")]:
        monkeypatch.delenv(name)
    with registered("bloom", "flan-t5", plain=("plain",)):
        yield
