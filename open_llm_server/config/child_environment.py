"""The environment of a process that does one job for a command: what Python needs, nothing else.

No keys and no tokens: what runs there reads what strangers made.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from .devices import thread_env

_KEPT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "TZ")


def bare_environment(threads: int, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """For a process that computes with `threads` threads, on the CPU, and asks no hub."""
    environ = os.environ if environ is None else environ
    kept = {name: environ[name] for name in _KEPT if name in environ}
    return {**kept, **thread_env(threads), "CUDA_VISIBLE_DEVICES": "-1", "HF_HUB_OFFLINE": "1"}
