"""The models that are named: whether their weights can be loaded and fit, and the memory there is.

Asks what `start` asks before its processes begin, model by model, so that every fault is told.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .cli_figures import size
from .doctor_finding import Case, Finding, left_out
from .engine.cgroup import free_here
from .engine.memory import free_memory
from .errors import OpenLLMError
from .fit import Fit, Memory, fit, refuse
from .registry import load_family
from .supervisor import check_store

if TYPE_CHECKING:
    from .config.resolved import ModelPlan

SMALL = 1_000_000_000
"""Bytes of free memory under which hardly a model fits but the built-in one."""


def check(case: Case) -> list[Finding]:
    found = [] if case.resolved else [left_out("models")]
    fits: list[Fit] = []
    memory = Memory()
    for plan in case.plans:
        if not _is_installed(plan):
            says = "not looked into, for what computes it is not installed"
            found.append(Finding("note", plan.name, says))
            continue
        try:
            if plan.missing:
                check_store([plan])
                found.append(_to_import(plan.name, f"{plan.family}@{plan.source}"))
                continue
            load_family(plan).check_weights(plan)
            one = fit(plan, memory)
            refuse([one])
        except OpenLLMError as error:
            do = "bring these weights again, or name others"
            found.append(Finding.of(plan.name, error, do=do))
        else:
            fits.append(one)
            found.append(judge_fit(one))
    return [judge_memory(free_memory(), _total(), free_here()), *found, *_judge_sum(fits)]


def _total() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _is_installed(plan: ModelPlan) -> bool:
    """`doctor_packages` tells what is missing."""
    try:
        load_family(plan).check_installed(plan)
    except OpenLLMError:
        return False
    return True


def judge_memory(free: int, total: int, limited: int | None) -> Finding:
    """`free` bytes that can be had, `total` of the machine; `limited`: what a container's limit
    leaves."""
    says = f"{size(free)} of {size(total)} free"
    if limited is not None and limited <= free:
        says += ", by the limit of this container"
    if free >= SMALL:
        return Finding("ok", "memory", says)
    return Finding("warning", "memory", says, "end other programs, or raise the container's limit")


def judge_fit(one: Fit) -> Finding:
    """Of a model that is not refused."""
    name = one.plan.name
    if one.need is None or one.available is None:
        needs = "" if one.need is None else f"needs {size(one.need.total)}; "
        return Finding("ok", name, f"{needs}how much there is for it is not known beforehand")
    slots = "1 slot" if one.slots == 1 else f"{one.slots} slots"
    context = f" of {one.context} tokens" if one.context else ""
    says = (
        f"needs {size(one.need.total)} of {one.place} for {slots}{context}, and "
        f"{size(one.available)} are free"
    )
    if one.lacking:
        do = "leave --force out, and see `open-llm-server fit` for what would fit"
        return Finding("warning", name, f"{says}: it is forced in", do)
    return Finding("ok", name, says)


def _judge_sum(fits: Sequence[Fit]) -> list[Finding]:
    try:
        refuse(fits)
    except OpenLLMError as error:
        return [Finding.of("all models", error)]
    return []


def _to_import(name: str, source: str) -> Finding:
    return Finding(
        "note",
        name,
        f"its weights are not here: `start` would fetch {source.partition('@')[2]} first",
        f"to have them ahead: open-llm-server import {source}",
    )
