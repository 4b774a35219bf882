"""One server for many open language models. The public names, and nothing else.

Importing this is cheap: each name is fetched when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .registry import Registry
    from .runnable import LLMRunnable
    from .runner import LLMRunner, get_runner
    from .serving import Server, start
    from .store.importing import import_model

__all__ = [
    "LLMRunnable",
    "LLMRunner",
    "Registry",
    "Server",
    "__version__",
    "get_runner",
    "import_model",
    "start",
]

_HOMES = {
    "LLMRunnable": "runnable",
    "LLMRunner": "runner",
    "Registry": "registry",
    "Server": "serving",
    "get_runner": "runner",
    "import_model": "store.importing",
    "start": "serving",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
