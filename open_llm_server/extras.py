"""The extras: which packages each of them brings, and the one line that says how to get them.

Owns what must be there before an engine or gRPC is imported, and imports none of it. The versions
are those that this distribution's own metadata asks for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import StartError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "open-llm-server"
IN_IMAGES = "take an image with all engines, whose tag does not end in -slim"


@dataclass(frozen=True)
class Extra:
    """What `pip install 'open-llm-server[NAME]'` brings."""

    name: str
    packages: Mapping[str, str]
    """Module -> the distribution that it is in."""
    hint: str = ""
    """What else is good to know before installing."""

    @property
    def command(self) -> str:
        return f"pip install '{DISTRIBUTION}[{self.name}]'"

    @property
    def way_out(self) -> str:
        """What to do where it is missing."""
        return IN_IMAGES if in_image() else self.command


LLAMA_CPP = Extra(
    "llama-cpp",
    {"llama_cpp": "llama-cpp-python"},
    hint=" (it is compiled, and the flags decide how fast it is: docs/installing.md has them, and "
    "in a checkout `make setup` chooses them)",
)
TORCH = Extra(
    "torch",
    {name: name for name in ("torch", "transformers", "safetensors", "accelerate", "peft")},
)
GRPC = Extra(
    "grpc",
    {
        "grpc": "grpcio",
        "grpc_health": "grpcio-health-checking",
        "grpc_reflection": "grpcio-reflection",
        "grpc_status": "grpcio-status",
        "cryptography": "cryptography",
    },
)


def require(extra: Extra, what: str, *modules: str) -> None:
    """Raises StartError unless `modules` of `extra` (all, where none is named) can be imported,
    in versions that this server works with. `what` needs them, for people."""
    wanted = modules or tuple(extra.packages)
    missing = [extra.packages[module] for module in wanted if find_spec(module) is None]
    faults = [f"{_listed(missing)}, not installed here"] if missing else []
    faults += _wrong_versions(extra, [extra.packages[module] for module in wanted])
    if faults:
        raise StartError(f"{what} needs {'; '.join(faults)}{_way_out(extra)}")


def in_image() -> bool:
    """Whether this is an image of this project's, into which nobody installs anything."""
    return Path(sys.prefix, "image").exists()


def _way_out(extra: Extra) -> str:
    return f"; {IN_IMAGES}" if in_image() else f"{extra.hint}; run: {extra.command}"


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _wrong_versions(extra: Extra, distributions: Sequence[str]) -> Iterator[str]:
    for wanted in _requirements(extra.name):
        if wanted.name not in distributions:
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:  # missing, or put there without its metadata
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            yield f"{wanted.name}{wanted.specifier}, and {version} is installed"


@cache
def _requirements(extra: str) -> tuple[Requirement, ...]:
    """What this distribution asks for in `extra`; nothing where it runs without being installed."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return ()
    found = [Requirement(line) for line in lines]
    return tuple(
        wanted
        for wanted in found
        if wanted.marker
        and wanted.marker.evaluate({"extra": extra})
        and not wanted.marker.evaluate({"extra": ""})
    )
