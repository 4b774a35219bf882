"""Writes containers/Containerfile.cpu and .cuda from their one source, containers/Containerfile.in.

`make containers` runs it; a test finds files that are not as it would write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "containers"
SOURCE = FOLDER / "Containerfile.in"
HEAD = "# Written by `make containers` from Containerfile.in: change that one.\n"
TARGETS: Mapping[str, Mapping[str, str]] = {
    "cpu": {
        "DEVICE": "CPUs",
        "BASE": "debian:bookworm-slim",
        "BUILD_BASE": "${BASE}",
        "CUDA": "",
        "TORCH_BACKEND": "cpu",
    },
    "cuda": {
        "DEVICE": "NVIDIA GPUs",
        "BASE": "nvidia/cuda:12.8.1-runtime-ubuntu24.04",
        "BUILD_BASE": "nvidia/cuda:12.8.1-devel-ubuntu24.04",
        "CUDA": " --cuda",
        "TORCH_BACKEND": "cu128",
    },
}


def containerfile(target: str) -> str:
    text = SOURCE.read_text()
    for name, value in TARGETS[target].items():
        text = text.replace(f"@{name}@", value)
    return HEAD + text


def path_of(target: str) -> Path:
    return FOLDER / f"Containerfile.{target}"


def main() -> None:
    for target in TARGETS:
        path_of(target).write_text(containerfile(target))
        print(f"wrote {path_of(target).relative_to(FOLDER.parent)}")


if __name__ == "__main__":
    main()
