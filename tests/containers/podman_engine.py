"""A podman that can run containers here, and the image of this checkout; or why there is none."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from programs import script
from running import HANG_S

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "openllm-server/tiny:cpu-slim"
MODEST_LIMITS = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
"""
"""For machines that are containers themselves, and may not raise limits."""


class NoPodman(Exception):
    """Says why, for the test's report."""


@dataclass(frozen=True)
class Podman:
    environment: Mapping[str, str]

    def __call__(self, *words: str) -> str:
        """What it says on standard output. Raises CalledProcessError."""
        return subprocess.run(
            ["podman", *words],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=True,
            timeout=2 * HANG_S,
        ).stdout

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = json.loads(self(kind, "inspect", name))
        return dict(found)

    def container_at(self, port: int) -> str:
        """The id of the container that publishes `port`."""
        for each in json.loads(self("ps", "--format", "json")):
            if any(known.get("host_port") == port for known in each["Ports"] or ()):
                return str(each["Id"])
        raise AssertionError(f"no container publishes port {port}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def usable_podman(folder: Path) -> Podman:
    """`folder` may hold a configuration for it. Raises NoPodman."""
    if not shutil.which("podman"):
        raise NoPodman("podman is not installed; .ci/images installs it")
    limits = folder / "containers.conf"
    limits.write_text(MODEST_LIMITS)
    podman = Podman({})
    _check_image(podman)
    try:
        _try(podman)
    except subprocess.CalledProcessError:
        podman = Podman({"CONTAINERS_CONF": str(limits)})
        try:
            _try(podman)
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or ["without a word"])[-1]
            raise NoPodman(f"podman cannot run a container here: {last}") from None
    return podman


def _check_image(podman: Podman) -> None:
    try:
        labels = podman.inspect("image", IMAGE)["Labels"] or {}
    except subprocess.CalledProcessError:
        raise NoPodman(f"there is no image {IMAGE}; .ci/images builds it") from None
    builds = script("build_images")
    if labels.get(builds.SOURCES_LABEL) != builds.sources_hash():
        raise NoPodman(f"{IMAGE} was built from other sources; .ci/images builds it anew")


def _try(podman: Podman) -> None:
    podman("run", "--rm", "--read-only", IMAGE, "--version")
