"""The processor: what it is called, how much of it this process may use, what it computes with.

Also what a build of llama.cpp lacks of that. `judge_*` are pure.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .config.machine import affinity, cgroup_quota, processor_name, usable_cores
from .doctor_finding import Case, Finding, joined
from .doctor_packages import requirements
from .engine.processor import cpu_flags

_AMX = "AMX_INT8"
FEATURES = {
    "avx": "AVX",
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "bmi2": "BMI2",
    "avx512f": "AVX512",
    "avx512vbmi": "AVX512_VBMI",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "avx_vnni": "AVX_VNNI",
    "amx_int8": _AMX,
}
"""What Linux calls each feature that llama.cpp can use on x86-64, and what llama.cpp calls it."""
_SHOWN = {
    "avx2": "AVX2",
    "avx512f": "AVX512",
    "avx512_vnni": "VNNI",
    "avx512_bf16": "BF16",
    "amx_tile": "AMX",
}
_ROOT = Path(__file__).resolve().parents[1]
_BINDING = "llama-cpp-python"
_STAMP = Path(sys.prefix) / ".llama-cpp-build.json"


def check(_: Case) -> list[Finding]:
    quota = cgroup_quota()
    cores = judge_cores(usable_cores(), len(affinity()), quota)
    name = Finding("ok", "processor", processor_name())
    if platform.machine() not in ("x86_64", "AMD64"):
        return [name, cores]
    return [name, cores, judge_features(cpu_flags())]


def judge_cores(usable: int, logical: int, quota: float | None) -> Finding:
    """`usable` physical cores of `logical` processors; `quota`: processors' worth of time that a
    control group allows."""
    cores = "1 core" if usable == 1 else f"{usable} cores"
    says = f"{cores} to compute with ({logical} logical processors)"
    if quota is None or quota >= logical:
        return Finding("ok", "cores", says)
    says += f"; this container may use {quota:g} processors' time"
    if quota < 1:
        return Finding("warning", "cores", says, "give it one processor at least, such as --cpus 1")
    return Finding("note", "cores", says)


def judge_features(flags: Iterable[str]) -> Finding:
    """`flags` as Linux names them."""
    have = set(flags)
    if not have:
        return Finding("note", "features", "this system does not tell what the processor can do")
    shown = [name for flag, name in _SHOWN.items() if flag in have]
    if "avx2" in have:
        return Finding("ok", "features", ", ".join(shown))
    return Finding(
        "warning",
        "features",
        "no AVX2: models compute several times slower than on processors of the last ten years",
        "in a virtual machine, pass the host's processor through; else take small models",
    )


def lacking(system: str, flags: Iterable[str]) -> list[str]:
    """What llama.cpp was built without, although the processor has it; in llama.cpp's words.

    `system`: what llama.cpp says of its build, as `AVX = 1 | AVX2 = 1 | ...`.
    """
    built = {name for name, value in re.findall(r"(\w+) = (\w+)", system) if value != "0"}
    have = set(flags)
    return [name for flag, name in FEATURES.items() if flag in have and name not in built]


def judge_build(system: str, flags: Iterable[str], stamp: Mapping[str, Any]) -> Finding | None:
    """`stamp`: what `make setup` noted of its build, empty where it built none."""
    have = set(flags)
    names = lacking(system, have)
    if not names:
        return None
    says = f"built without {joined(names)}, which this processor has"
    if _left_out(stamp, names):
        return Finding("note", "build", f"{says}: `make setup` left it out on purpose")
    if names == [_AMX] and not stamp:
        says += ": it would read prompts faster, where the compiler makes sound code of it"
        return Finding("note", "build", says)
    return Finding("warning", "build", f"{says}: slower than it could be", rebuild(have))


def rebuild(flags: Iterable[str]) -> str:
    """The command that builds llama.cpp for this processor.

    Without AMX by pip: some compilers make crashing code of it, and `make setup` knows which.
    """
    made = _STAMP.with_name(".runtime")
    if made.is_file() and (_ROOT / "Makefile").is_file():
        stamps = " ".join(shlex.quote(str(path)) for path in (_STAMP, made))
        return f"rm -f {stamps}; make -C {shlex.quote(str(_ROOT))} setup"
    have = set(flags)
    if "amx_int8" not in have:
        return install("-DGGML_NATIVE=ON")
    known = [flag for flag, name in FEATURES.items() if flag in have and name != _AMX]
    return install("-DGGML_NATIVE=OFF", *(f"-DGGML_{FEATURES[flag]}=ON" for flag in known))


def install(*switches: str) -> str:
    """The command that builds llama.cpp by pip, with these switches for CMake."""
    wanted = (text.partition(";")[0] for text in requirements() if text.startswith(_BINDING))
    return (
        f'CMAKE_ARGS="{" ".join(switches)}" pip install --force-reinstall --no-deps '
        f"--no-cache-dir --no-binary {_BINDING} '{next(wanted, _BINDING)}'"
    )


def stamp() -> Mapping[str, Any]:
    """What `make setup` noted; empty where there is nothing to read."""
    try:
        noted = json.loads(_STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _left_out(stamp: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether `make setup` had tried with all of `names`, or knew its compiler to lack them."""
    try:
        best = stamp["inputs"][2]
        if stamp["build"] != best["name"]:
            return True  # the best build failed its proof
        return all(best["switches"].get(f"GGML_{name}") == "OFF" for name in names)
    except (KeyError, IndexError, TypeError, AttributeError):
        return False
