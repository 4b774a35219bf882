"""Family `tiny`: the built-in model. No download, answers at once, knows this server."""

from __future__ import annotations

from .llama import Llama
from .registry import Registry


@Registry.add_model("tiny")
class Tiny(Llama):
    """A few million parameters, for trying things out; see models/tiny/README.md."""


get_runner = Tiny.get_runner
