"""Python, this server and the packages that it needs: there, in the right versions, importable.

`judge_*` are pure; importing is done in a child.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from importlib.util import find_spec

from . import __version__
from .doctor_ask import Answer, ask
from .doctor_finding import Case, Finding, joined
from .errors import OpenLLMError
from .extras import DISTRIBUTION, GRPC, LLAMA_CPP, TORCH, Extra
from .registry import load_family
from .supervisor_doors import check_grpc

OLDEST, NEWEST = (3, 10), (3, 13)
EXTRAS = (
    (LLAMA_CPP, "models in GGUF files want it, the built-in tiny among them"),
    (TORCH, "checkpoints of the Hugging Face hub want it, such as flan-t5"),
    (GRPC, "--grpc and --grpc-port want it"),
)
"""With who wants each."""


def check(case: Case) -> list[Finding]:
    lacking = _lacking(case)
    found = [
        Finding("ok", "server", f"{DISTRIBUTION} {__version__}"),
        judge_python(sys.version_info[:2], platform.python_version()),
        *judge_requirements(requirements(), _installed),
        _judge_imports(ask("imports", *_modules(case))),
        *lacking,
    ]
    for extra, wanted_for in EXTRAS:
        versions = {
            name: _version(name) if find_spec(module) else None
            for module, name in extra.packages.items()
        }
        told = any(extra.command in finding.do for finding in lacking)
        found += judge_extra(extra, versions, wanted_for, told=told)
    return found


def _lacking(case: Case) -> list[Finding]:
    """What `start` would refuse for, before it looks at weights."""
    found = []
    for plan in case.plans:
        try:
            load_family(plan).check_installed(plan)
        except OpenLLMError as error:
            found.append(Finding.of(plan.name, error))
    if case.resolved:
        try:
            check_grpc(case.resolved.server)
        except OpenLLMError as error:
            found.append(Finding.of("gRPC", error))
    return found


def judge_python(version: tuple[int, int], shown: str) -> Finding:
    if OLDEST <= version <= NEWEST:
        return Finding("ok", "Python", shown)
    between = " to ".join(".".join(map(str, bound)) for bound in (OLDEST, NEWEST))
    return Finding(
        "warning",
        "Python",
        f"{shown}, and this server is made for {between}",
        f"make an environment with one of those: python{NEWEST[0]}.{NEWEST[1]} -m venv .venv",
    )


def judge_extra(
    extra: Extra, versions: Mapping[str, str | None], wanted_for: str, *, told: bool
) -> list[Finding]:
    """`versions`: of each distribution of the extra, `None` where it is missing; `told`: whether
    somebody who needs it has been told."""
    missing = [name for name, version in versions.items() if version is None]
    here = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    if not missing:
        return [Finding("ok", extra.name, here)]
    if told:
        return []
    if not here:
        return [Finding("note", extra.name, f"not installed: {wanted_for}", extra.way_out)]
    says = f"{here}; not installed: {joined(missing)}"
    return [Finding("note", extra.name, says, extra.way_out)]


def judge_requirements(
    requirements: Iterable[str], installed: Callable[[str], str | None]
) -> list[Finding]:
    """What of the core is missing, and what has a version that this release is not made for.

    `requirements` as the distribution's metadata has them, those of extras included; those are
    judged where they are installed.
    """
    from packaging.requirements import Requirement

    extras = ["", *(extra.name for extra, _ in EXTRAS)]
    faults: dict[str, Finding] = {}
    core = 0
    for text in requirements:
        one = Requirement(text)
        marker = one.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras):
            continue
        version = installed(one.name)
        is_core = marker is None or marker.evaluate({"extra": ""})
        core += is_core
        if version is None and is_core:
            says = f"{one.name} is not installed, and the server needs it"
            faults[one.name] = Finding("problem", "packages", says, f"pip install '{_plain(one)}'")
        elif version and not one.specifier.contains(version, prereleases=True):
            says = f"{one.name} {version} is installed, and this release is made for {_plain(one)}"
            faults[one.name] = Finding("warning", "packages", says, f"pip install '{_plain(one)}'")
    if not core:
        says = "what this release needs is not recorded here, for it was not installed by pip"
        return [Finding("note", "packages", says, f"pip install {DISTRIBUTION}")]
    return [*faults.values()] or [
        Finding("ok", "packages", f"{core} that the server needs, in versions it is made for")
    ]


def _plain(requirement: object) -> str:
    return str(requirement).partition(";")[0].strip()


def _judge_imports(answer: Answer) -> Finding:
    if answer.fault is None:
        says = f"BentoML {_installed('bentoml')} and what the server imports with it"
        return Finding("ok", "imports", says)
    if answer.do:
        return answer.untried("imports")
    says = f"what the server's processes import fails: {answer.how}"
    do = f"install it again: pip install --force-reinstall {DISTRIBUTION}"
    return Finding("problem", "imports", says, do)


def _modules(case: Case) -> list[str]:
    """What the processes of a server import first, beside their engines."""
    modules = ["bentoml.legacy", "open_llm_server.api.app"]
    wanted = case.resolved is not None and case.resolved.server.grpc_at is not None
    if wanted and all(map(find_spec, GRPC.packages)):
        modules += [*GRPC.packages, "open_llm_server.rpc.server"]
    return modules


def requirements() -> list[str]:
    """What this release needs, as its metadata has it; nothing where it was not installed."""
    try:
        return metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _version(name: str) -> str:
    return _installed(name) or "of unknown version"
