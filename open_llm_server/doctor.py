"""Looks this machine over, and says what would stop a start, what would hamper it, what to do.

Owns the list of checks and how they are run: at the same time, each within a limit, told in one
order. What is looked at is the `doctor_*` neighbours' business.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from . import (
    doctor_containers,
    doctor_cpu,
    doctor_disk,
    doctor_environment,
    doctor_gpu,
    doctor_limits,
    doctor_llama,
    doctor_models,
    doctor_network,
    doctor_packages,
    doctor_ports,
    doctor_torch,
)
from .doctor_finding import Case, Finding, way_out_of
from .errors import OpenLLMError

Check = Callable[[Case], list[Finding]]

CHECKS: dict[str, Check] = {
    "Installation": doctor_packages.check,
    "Configuration": doctor_environment.check,
    "Processor": doctor_cpu.check,
    "llama.cpp": doctor_llama.check,
    "torch": doctor_torch.check,
    "GPU": doctor_gpu.check,
    "Models and memory": doctor_models.check,
    "Store": doctor_disk.check,
    "Network": doctor_network.check,
    "Ports": doctor_ports.check,
    "Limits": doctor_limits.check,
    "Containers": doctor_containers.check,
}
"""By their headings."""
LIMIT_S = 120.0
"""More than the limits of what the checks wait for themselves."""


def examine(
    case: Case, checks: Mapping[str, Check] | None = None, *, limit_s: float = LIMIT_S
) -> Iterator[tuple[str, list[Finding]]]:
    """Runs all checks at once; their findings in the order of the checks, as soon as they are
    there. A check that takes longer than `limit_s` seconds is a finding itself."""
    waiting = {title: _begin(check, case) for title, check in (checks or CHECKS).items()}
    for title, answer in waiting.items():
        try:
            yield title, answer.get(timeout=limit_s)
        except queue.Empty:
            says = f"this check was not done after {limit_s:g} s"
            yield title, [Finding("warning", title, says, "look at how busy this machine is")]


def stops(findings: Sequence[Finding]) -> bool:
    """Whether `start` would not come up."""
    return any(finding.level == "problem" for finding in findings)


def summary(case: Case, findings: Sequence[Finding]) -> str:
    counts = [
        f"{count} {level}{'' if count == 1 else 's'}"
        for level in ("problem", "warning")
        if (count := sum(finding.level == level for finding in findings))
    ]
    told = ", ".join(counts) or "no problems"
    if stops(findings):
        return f"{told}: `{case.command}` would not come up"
    return f"{told}: nothing stands in the way of `{case.command}`"


def _begin(check: Check, case: Case) -> queue.Queue[list[Finding]]:
    answer: queue.Queue[list[Finding]] = queue.Queue()
    # A daemon, so that one which hangs keeps nobody from leaving.
    threading.Thread(target=lambda: answer.put(_run(check, case)), daemon=True).start()
    return answer


def _run(check: Check, case: Case) -> list[Finding]:
    """A check that breaks has found something too: whatever it stumbled over."""
    try:
        return check(case)
    except OpenLLMError as error:
        return [Finding.of("check", error, "warning")]
    except Exception as error:
        if isinstance(error, OSError) and (do := way_out_of(error)):
            return [Finding("warning", "check", f"not looked at: {error.strerror}", do)]
        says = f"this check broke: {type(error).__name__}: {error}"
        return [Finding("warning", "check", says, "please report it with the line above")]
