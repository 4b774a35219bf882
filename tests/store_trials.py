"""Hard times for the store, in a process of its own: `python store_trials.py TRIAL SOURCE [N]`.

Kills, crowds and full disks; the store is that of BENTOML_HOME. Prints what happened as one JSON
object.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from storing import KEY, faults, import_folder, manifest_of

from open_llm_server.errors import InsufficientSpace
from open_llm_server.store import catalog, local, parallel, places, remove
from open_llm_server.store.progress import Meter, Progress
from open_llm_server.store.stage import stage

MOST_ATTEMPTS = 10
"""For each kill that shall land."""
SLOW_S = 0.001
"""That a block of a slow copy takes."""
SLOW_BLOCK = 4096


def kills(source: Path, count: int, *, slow: bool = False) -> dict[str, Any]:
    """Kills imports and removals at random moments, and looks at the store after each kill."""
    if slow:
        _small_blocks()
    meter = Slow() if slow else Meter()
    draw, found, began = random.Random(count), list[str](), time.monotonic()
    _in_child(lambda: _import_or_remove(source, meter))
    _in_child(lambda: _import_or_remove(source, meter))
    span = time.monotonic() - began
    landed = resumed = 0
    for _ in range(MOST_ATTEMPTS * count):
        if landed == count:
            break
        resumed += _names(places.staging()) == [KEY]
        delay = draw.uniform(0, span if catalog.entries() else 1.1 * span)
        landed += _in_child(lambda: _import_or_remove(source, meter), kill_after=delay)
        found += faults()
    import_folder(source)
    return {"landed": landed, "resumed": resumed, "faults": found, **_state()}


def crowd(source: Path, count: int, *, kill: bool = False) -> dict[str, Any]:
    """`count` imports of one model at once; with `kill`, the first to copy is killed at it."""
    _small_blocks()
    reading, writing = os.pipe()
    for _ in range(count):
        if os.fork() == 0:
            _or_die(lambda: _one_of_many(source, writing))
    os.close(writing)
    said = []
    with os.fdopen(reading) as lines:
        for line in lines:
            word, pid = line.split()
            if kill and word == "copies":
                os.kill(int(pid), signal.SIGKILL)
                kill = False
            said.append(word)
    for _ in range(count):
        os.wait()
    return {"said": said, **_state()}


def full(source: Path, _: int) -> dict[str, Any]:
    """The disk is full at the first write, at the second, and so on until an import succeeds."""
    found, failed = list[str](), 0
    while True:
        with _full_from(failed) as writes:
            try:
                import_folder(source)
            except InsufficientSpace as error:
                failed += 1
                if "free" not in str(error) or error.extra["available"] is None:
                    found.append(f"write {failed}: {error}")
            else:
                break
        found += faults()
    return {"failed": failed, "writes": len(writes), "faults": found, **_state()}


class Slow(Meter):
    """Takes its time over each block."""

    def add(self, count: int, *, note: str | None = None) -> None:
        time.sleep(SLOW_S)
        super().add(count, note=note)


def _small_blocks() -> None:
    for module in (local, parallel):
        module.BLOCK = SLOW_BLOCK  # type: ignore[attr-defined]  # one has it from the other


def _import_or_remove(source: Path, meter: Meter) -> None:
    present = catalog.entries()
    if present:
        remove.remove(present[0])
    else:
        import_folder(source, meter=meter)


def _in_child(work: Callable[[], object], kill_after: float | None = None) -> bool:
    """Whether `work` was killed before it was done."""
    child = os.fork()
    if child == 0:
        _or_die(work)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("an import failed without being killed")
    return os.WIFSIGNALED(status)


def _or_die(work: Callable[[], object]) -> NoReturn:
    """The end of a child that was forked: nothing of its parent's work happens in it."""
    try:
        work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _one_of_many(source: Path, writing: int) -> None:
    def say(word: str) -> None:
        os.write(writing, f"{word} {os.getpid()}\n".encode())

    def listener(progress: Progress) -> None:
        if progress.phase == "waiting":
            say("waits")

    with stage(KEY, meter=Meter(listener)) as staged:
        if catalog.entries():
            say("finds")
            return
        say("copies")
        records = local.bring(source, local.names(source), staged.folder, Slow())
        staged.publish(manifest_of(records))
        say("brings")


@contextmanager
def _full_from(first: int) -> Iterator[list[str]]:
    """From write number `first` on, the disk takes nothing; gives the writes, by name."""
    writes: list[str] = []
    originals = {name: getattr(os, name) for name in ("open", "write", "fsync", "mkdir")}

    def guarded(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name != "open" or arguments[1] & os.O_CREAT:
                writes.append(name)
                if len(writes) > first:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return originals[name](*arguments, **options)

        return call

    for name in originals:
        setattr(os, name, guarded(name))
    try:
        yield writes
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def _state() -> dict[str, Any]:
    """The store at the end."""
    return {
        "at_the_end": faults(),
        "tags": [str(entry.tag) for entry in catalog.entries()],
        "left": [*_names(places.staging()), *_names(places.trash()), *_names(places.locks())],
    }


TRIALS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "kills": kills,
    "slow-kills": lambda source, count: kills(source, count, slow=True),
    "crowd": crowd,
    "killed-crowd": lambda source, count: crowd(source, count, kill=True),
    "full": full,
}

if __name__ == "__main__":
    json.dump(TRIALS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3])), sys.stdout)
