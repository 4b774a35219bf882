"""Several files at once, and their hashes. Knows bytes and threads; nothing of models."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from .progress import Meter

BLOCK = 4 * 1024**2
"""Bytes that are read at a time."""
WORKERS = min(4, os.cpu_count() or 1)

Step = Callable[[int], None]
"""Says that so many more bytes are done; raises Stopped when they are in vain."""
_T = TypeVar("_T")
_R = TypeVar("_R")


class Stopped(Exception):
    """The work on another file failed, or was interrupted."""


def each(work: Callable[[_T, Step], _R], items: Iterable[_T], meter: Meter) -> list[_R]:
    """`work(item, step)` for all items, some at a time; results in the order of the items.

    The first error ends the work on the others too, and is raised when all of it has ended.
    """
    stop = threading.Event()

    def step(count: int) -> None:
        if stop.is_set():
            raise Stopped
        meter.add(count)

    with ThreadPoolExecutor(WORKERS, thread_name_prefix="store") as pool:
        futures = [pool.submit(work, item, step) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise
    return [future.result() for future in futures]


def sha256_of(path: Path, step: Step) -> str:
    """The hash of a file, as hexadecimal digits. Raises OSError, Stopped."""
    found, buffer = hashlib.sha256(), bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            found.update(memoryview(buffer)[:count])
            step(count)
    return found.hexdigest()
