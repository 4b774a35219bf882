"""torch: whether it computes here, proven in a child, and which GPUs it sees.

`judge` is pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from .cli_figures import size
from .config.machine import count_gpus
from .doctor_ask import Answer, ask
from .doctor_environment import visible_gpus
from .doctor_finding import Case, Finding, joined
from .extras import TORCH


def check(case: Case) -> list[Finding]:
    if find_spec("torch") is None:
        return []  # `doctor_packages` has said so
    plans = case.on("torch")
    whole = plans and find_spec("transformers") is not None
    answer = ask("torch", *(["engine"] if whole else []))
    users = [plan.name for plan in plans]
    on_gpu = [plan.name for plan in plans if plan.device.startswith("gpu")]
    return judge(answer, users, on_gpu, count_gpus(), visible_gpus())


def judge(
    answer: Answer,
    users: Sequence[str],
    on_gpu: Sequence[str],
    gpus: int,
    visible: str | None,
) -> list[Finding]:
    """`users`: the models that it would compute; `on_gpu`: those of them on a GPU; `gpus`: how
    many the driver has; `visible`: what hides them, as CUDA_VISIBLE_DEVICES."""
    facts = answer.facts
    if answer.do:
        return [answer.untried("torch")]
    if answer.fault:
        says = f"torch fails at small products of matrices: {answer.how}"
        if "built" in facts:
            says = f"torch computes, but what this server needs beside it fails: {answer.how}"
        do = f"install it again: {TORCH.command} --force-reinstall"
        return [Finding("problem" if users else "warning", "torch", says, do)]
    threads = facts.get("threads")
    says = f"torch {facts.get('version')} computes in float32 and bfloat16 with {threads} threads"
    return [Finding("ok", "torch", says), *_judge_gpus(facts, on_gpu, gpus, visible)]


def _judge_gpus(facts: Any, on_gpu: Sequence[str], gpus: int, visible: str | None) -> list[Finding]:
    seen = facts.get("gpus", [])
    if seen:
        return [
            Finding("ok", f"GPU {place}", f"{name}, {size(memory)}, computes")
            for place, (name, memory) in enumerate(seen)
        ]
    if not gpus:
        return []
    says = "the driver has " + ("a GPU" if gpus == 1 else f"{gpus} GPUs") + ", torch sees none: "
    if not facts.get("built"):
        why = f"torch {facts.get('version')} is built for the CPU only"
        do = "install a build of torch for your driver's CUDA; torch's own site names the command"
    elif visible is not None:
        why, do = f"CUDA_VISIBLE_DEVICES is {visible!r}", "unset CUDA_VISIBLE_DEVICES"
    else:
        why = str(facts.get("why") or f"it is built for CUDA {facts['built']}").split(" (")[0]
        do = "update the driver, or install a build of torch for the CUDA that the driver has"
    if on_gpu:
        return [Finding("problem", "GPU", f"{says}{why}, and {joined([*on_gpu])} wants one", do)]
    return [Finding("warning", "GPU", f"{says}{why}", do)]
