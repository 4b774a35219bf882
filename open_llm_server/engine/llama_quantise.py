"""llama.cpp's own quantiser: one GGUF model in, one GGUF file with smaller weights out.

Owns the call and what its log tells of the progress. For a process of its own: native code may
end it. Knows neither the store nor how good the result is.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path

from ..errors import WeightsError
from .llama_native import native, start_backend

SCHEMES = {"q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "q4_k_m": "LLAMA_FTYPE_MOSTLY_Q4_K_M"}
_ROOM = 1024 * 1024
"""Bytes that no disk has left on which a file could not be written."""
_TENSOR = re.compile(r"\[ *\d+/ *\d+\] +(\S+)")


def quantise(
    source: Path, target: Path, scheme: str, *, threads: int, told: Callable[[str], None]
) -> None:
    """Writes `source` (of several parts: the first) to `target`, quantised by `scheme`.

    `told` gets each tensor's name as its turn comes. Raises WeightsError, and OSError where the
    disk takes no more.
    """
    parameters = native.llama_model_quantize_default_params()
    parameters.ftype = getattr(native, SCHEMES[scheme])
    parameters.nthread = threads
    log = start_backend()
    log.errors.clear()

    def listen(text: str) -> None:
        if found := _TENSOR.match(text):
            told(found[1])

    log.listener = listen
    try:
        code = native.llama_model_quantize(
            os.fsencode(source), os.fsencode(target), ctypes.byref(parameters)
        )
    finally:
        log.listener = None
    if code:
        _require_room(target)
        raise WeightsError(
            f"llama.cpp cannot quantise {source.name} to {scheme}: {log.last()}. Import it as it "
            "is, without --quantize"
        )


def _require_room(target: Path) -> None:
    """llama.cpp does not say why it could not write: the disk tells, if asked for some more."""
    with target.open("ab") as file:
        file.write(bytes(_ROOM))
        file.flush()
        os.fsync(file.fileno())
