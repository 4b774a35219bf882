"""Imports that are killed, in a process of its own: `python import_trials.py NAME OPTIONS COUNT`.

The store is that of BENTOML_HOME, OPTIONS are `import_model`'s as JSON. Prints what happened as one
JSON object.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from typing import Any

import psutil
from storing import faults

from open_llm_server import import_model
from open_llm_server.store import catalog, places, remove
from open_llm_server.store.progress import Progress

MOST_ATTEMPTS = 10
"""For each kill that shall land."""
LAST_BREATH_S = 30.0
"""A process that is left after so long stays."""


def kills(name: str, options: dict[str, Any], count: int) -> dict[str, Any]:
    """Kills an import at random moments, looks at the store after each kill, and at what runs."""
    draw = random.Random(count)
    began = time.monotonic()
    assert not killed_import(name, options)
    span = time.monotonic() - began
    found, phases, landed, orphans = faults(), set[str](), 0, 0
    for _ in range(MOST_ATTEMPTS * count):
        if landed == count:
            break
        for entry in catalog.entries():
            remove.remove(entry)
        landed += killed_import(name, options, after=draw.uniform(0, span), phases=phases)
        orphans += len(left_over())
        found += faults()
    assert not killed_import(name, options)
    return {
        "landed": landed,
        "phases": sorted(phases),
        "orphans": orphans,
        "faults": found + faults(),
        "tags": [str(entry.tag) for entry in catalog.entries()],
        "staged": [path.name for path in places.staging().iterdir()],
    }


def killed_import(
    name: str,
    options: dict[str, Any],
    *,
    after: float | None = None,
    phases: set[str] | None = None,
) -> bool:
    """Whether the import was killed before it was done; `phases` gets where it was then."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _import(name, options, writing)
    os.close(writing)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading) as lines:
        said = lines.read().split()
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("an import failed without being killed")
    if os.WIFSIGNALED(status) and phases is not None:
        phases.update(said[-1:])
    return os.WIFSIGNALED(status)


def _import(name: str, options: dict[str, Any], writing: int) -> None:
    """In a process that was forked: ends it."""

    def listener(progress: Progress) -> None:
        os.write(writing, f"{progress.phase}\n".encode())

    try:
        import_model(name, listener=listener, **options)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def left_over() -> list[psutil.Process]:
    """Processes that still work at an import whose own is gone. This process adopts them."""
    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), LAST_BREATH_S)
    return list(alive)


def adopt_orphans() -> None:
    """Makes this process the parent of whoever loses theirs below it. Linux."""
    import ctypes

    subreaper = 36  # PR_SET_CHILD_SUBREAPER
    ctypes.CDLL(None).prctl(subreaper, 1, 0, 0, 0)


if __name__ == "__main__":
    adopt_orphans()
    json.dump(kills(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])), sys.stdout)
