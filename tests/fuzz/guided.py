"""Runs one target under atheris, which looks for inputs that reach new lines of our readers.

A target reads a file; WeightsError is the only way it may fail, and it may take no longer than
`LIMIT_S`. What breaks that is written to the current folder, and the process ends with an error.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path

Target = Callable[[Path], object]
"""Reads the file at this path."""

LIMIT_S = 5
MEMORY_MB = 2048
LONGEST = 64 * 1024
"""Bytes of an input. Headers of small files have less."""
SECONDS = 60


def missing() -> str | None:
    """Why there is no fuzzing here; `None` where there is."""
    if find_spec("atheris") is None:
        return "atheris is not installed; on CPython 3.11 to 3.13 on Linux: pip install atheris"
    return None


def main(target: Target, seeds: Collection[bytes], *, module: str) -> None:
    """Fuzzes what `module` does, as the command line says: `[SECONDS]`, or `--runs N` for tests."""
    if why := missing():
        sys.exit(f"error: {why}")
    import atheris  # type: ignore[import, unused-ignore]  # not on every system

    with atheris.instrument_imports(include=["open_llm_server.engine"]):
        importlib.import_module(module)
    arguments = sys.argv[1:]
    if arguments[:1] == ["--runs"]:
        limits = [f"-runs={int(arguments[1])}", "-seed=1"]
    else:
        limits = [f"-max_total_time={int(arguments[0]) if arguments else SECONDS}"]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        for place, content in enumerate(seeds):
            (folder / f"seed-{place}").write_bytes(content)
        inputs = folder / "inputs"
        inputs.mkdir()
        atheris.Setup([sys.argv[0], str(folder), *limits, *_options()], _reader(target, inputs))
        atheris.Fuzz()


def _reader(target: Target, folder: Path) -> Callable[[bytes], None]:
    from open_llm_server.errors import WeightsError

    path = folder / "input"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        with contextlib.suppress(WeightsError):  # with its words: the class has no other way
            target(path)

    return read


def _options() -> list[str]:
    return [
        f"-timeout={LIMIT_S}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={Path.cwd()}{os.sep}",
        "-print_final_stats=1",
    ]
