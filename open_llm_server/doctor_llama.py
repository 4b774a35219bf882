"""llama.cpp: whether it decodes here, proven in a child, and whether its build suits the machine.

`judge` is pure. Features of processors are `doctor_cpu`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from .config.folder import models_folder
from .doctor_ask import Answer, ask
from .doctor_cpu import install, judge_build, rebuild, stamp
from .doctor_finding import Case, Finding, Level, joined
from .engine.processor import cpu_flags
from .extras import in_image

MODEL = ("tiny", "tiny-q8_0.gguf")


def check(case: Case) -> list[Finding]:
    if find_spec("llama_cpp") is None:
        return []  # `doctor_packages` has said so
    answer = ask("llama", str(models_folder().joinpath(*MODEL)))
    plans = case.on("llama.cpp")
    on_gpu = [plan.name for plan in plans if plan.device.startswith(("gpu", "mps"))]
    return judge(answer, cpu_flags(), stamp(), [plan.name for plan in plans], on_gpu)


def judge(
    answer: Answer,
    flags: Iterable[str],
    stamp: Mapping[str, Any],
    users: Sequence[str],
    on_gpu: Sequence[str],
) -> list[Finding]:
    """`users`: the models that it would compute; `on_gpu`: those of them on a GPU."""
    flags, system = set(flags), str(answer.facts.get("system", ""))
    found = [_judge_decode(answer, flags, users)]
    # An image brings the variant for each processor; what suits this one best was loaded.
    build = judge_build(system, flags, stamp) if system and not in_image() else None
    found += [build] if build else []
    if "gpu" not in answer.facts:
        return found
    if answer.facts["gpu"]:
        found.append(Finding("ok", "GPU", "llama.cpp computes on GPUs here"))
    elif on_gpu:
        is_are = "is" if len(on_gpu) == 1 else "are"
        says = f"llama.cpp computes on the CPU only here, and {joined([*on_gpu])} {is_are} placed "
        do = f"choose --device cpu, or build it for CUDA: {install('-DGGML_CUDA=ON')}"
        found.append(Finding("problem", "GPU", f"{says}on a GPU", do))
    return found


def _judge_decode(answer: Answer, flags: set[str], users: Sequence[str]) -> Finding:
    if answer.fault is None:
        return Finding("ok", "decode", f"llama.cpp decodes {MODEL[-1]}")
    if answer.do:
        return answer.untried("decode")
    level: Level = "problem" if users else "warning"
    says = f"llama.cpp fails at the built-in model: {answer.how}"
    build = rebuild(flags)
    if answer.died_of == "SIGKILL":
        return Finding(level, "decode", says, "free some memory: the system ends what takes more")
    if answer.hung:
        build = f"try again when less is going on here; if it hangs again: {build}"
    if answer.died_of == "SIGILL":
        says += ", as a build for another processor is"
    return Finding(level, "decode", says, build)
