"""What must be installed where a Bento is served: requirements from the installed packages' own.

The server itself and its client go into a Bento as source. Knows no BentoML.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .config.resolved import ModelPlan, Resolved
from .errors import StartError
from .extras import DISTRIBUTION, GRPC, LLAMA_CPP, TORCH
from .registry import GROUP, load_family

_CLIENT = "open-llm-client"
_EXTRAS = {"llama.cpp": LLAMA_CPP.name, "torch": TORCH.name}
"""The extra that each engine is in; engines that are in none need nothing more."""


def requirements(resolved: Resolved) -> list[str]:
    """Lines for pip: what the served families need, with the bounds that this release declares.

    Raises StartError where the installation does not say what it needs.
    """
    extras = {_EXTRAS[engine] for engine in engines(resolved.models) if engine in _EXTRAS}
    if resolved.server.grpc_at is not None:
        extras.add(GRPC.name)
    needed = [*_declared(DISTRIBUTION, extras), *_declared(_CLIENT, ())]
    own = {DISTRIBUTION, _CLIENT}
    kept = [str(one) for one in needed if canonicalize_name(one.name) not in own]
    return list(dict.fromkeys([*kept, *plugins(resolved.models)]))


def engines(models: Iterable[ModelPlan]) -> set[str]:
    """What computes these models: `llama.cpp`, `torch`, …"""
    return {load_family(plan).engine_of(plan.config) for plan in models}


def plugins(models: Iterable[ModelPlan]) -> list[str]:
    """The packages that bring families of their own, at the version that is installed here."""
    families = {plan.family for plan in models}
    found = {
        f"{point.dist.name}=={point.dist.version}"
        for point in metadata.entry_points(group=GROUP)
        if point.name in families and point.dist
    }
    return sorted(found)


def _declared(package: str, extras: Collection[str]) -> list[Requirement]:
    try:
        lines = metadata.requires(package) or []
        known = metadata.metadata(package).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError as error:
        raise StartError(
            f"{package} is not installed as a package, so what it needs is not known; install it: "
            f"pip install {package}"
        ) from error
    if unknown := sorted(set(extras) - set(known)):
        raise StartError(
            f"this installation of {package} does not know its extra {unknown[0]!r}; install it "
            f"again: pip install '{package}[{unknown[0]}]'"
        )
    kept = []
    for wanted in map(Requirement, lines):
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            if not any(wanted.marker.evaluate({"extra": extra}) for extra in extras):
                continue
            wanted.marker = None
        kept.append(wanted)
    return kept
