"""Devices and precisions: whether a device is there, and which precision suits it.

Knows nothing of models.
"""

from __future__ import annotations

import re

import torch

from ..errors import ConfigurationError
from .processor import F16_FLAGS, cpu_flags, fast_number

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO = "auto"


def choose_dtype(name: str, device: str) -> torch.dtype:
    """The precision called `name` for `device` (as in `check_device`).

    "auto": bfloat16 on GPUs and CPUs that compute with it, float32 elsewhere. Raises
    ConfigurationError for other names, for float16 on a CPU that only emulates it, and for a
    device that is not here.
    """
    check_device(device)
    cpu = device == "cpu"
    if name == AUTO:
        if cpu:
            return DTYPES[fast_number()]
        return torch.bfloat16 if _gpu_has_bfloat16(device) else torch.float32
    dtype = DTYPES.get(name)
    if dtype is None:
        raise ConfigurationError(f"there is no dtype {name!r}; use auto, {', '.join(DTYPES)}")
    if cpu and dtype is torch.float16 and not F16_FLAGS & cpu_flags():
        raise ConfigurationError(
            "this CPU does not compute with float16, it would be slower than float32; use "
            "--dtype bfloat16 (as small), or auto"
        )
    return dtype


def check_device(device: str) -> None:
    """Raises ConfigurationError, which says what there is, unless `device` is here.

    `device`: "cpu", "mps", "cuda:0" and so on, or "auto" for all GPUs.
    """
    if device == "cpu":
        return
    if device == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigurationError(f"there is no device mps here; {_what_there_is()}")
        return
    if device == AUTO:
        if not torch.cuda.is_available():
            raise ConfigurationError(f"there is no GPU here; {_what_there_is()}")
        return
    found = re.fullmatch(r"cuda:(\d+)", device)
    if found is None:
        raise ConfigurationError(f"there is no kind of device {device!r}; {_what_there_is()}")
    if not torch.cuda.is_available() or int(found.group(1)) >= torch.cuda.device_count():
        raise ConfigurationError(f"there is no GPU {found.group(1)} here; {_what_there_is()}")


def _gpu_has_bfloat16(device: str) -> bool:
    if device == "mps":
        return True
    with torch.cuda.device(0 if device == AUTO else torch.device(device)):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _what_there_is() -> str:
    names = ["cpu"]
    if torch.cuda.is_available():
        names += [
            f"gpu:{place} ({torch.cuda.get_device_name(place)})"
            for place in range(torch.cuda.device_count())
        ]
    if torch.backends.mps.is_available():
        names.append("mps")
    built = (
        ""
        if torch.version.cuda or torch.version.hip or torch.backends.mps.is_built()
        else f" (torch {torch.__version__} is built without GPUs: for one, install a torch built "
        "for it)"
    )
    return f"there is: {', '.join(names)}{built}; choose with --device"
