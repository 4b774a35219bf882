"""Runs one piece of work in a child process: starts it, hears it out, ends it in every case.

For work that native code may crash in, or that strangers' files are the input of. Owns the
process, its pipes and the words for each way it can end; `child_work` is the other side.
"""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import getpid
from pathlib import Path
from typing import IO, Any, cast, get_args

from ..config.child_environment import bare_environment
from ..errors import WeightsError, from_frame
from .progress import Meter, Phase

PACKAGE = Path(__file__).resolve().parents[1]
LONGEST_LINE = 1024 * 1024
WORDS = 500
"""Characters of a child's last words that are passed on."""
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What a disk answers to writing: another try may go well, and `space` says so."""


def run(
    work: str,
    request: Mapping[str, Any],
    meter: Meter,
    *,
    folder: Path,
    threads: int,
    what: str,
    limit_s: float,
    way_out: str,
) -> Mapping[str, Any]:
    """What `work(request, say)` returns, where `work` is `module:function` of this package.

    `meter` shows what the work says meanwhile: {"phase", "total", "note"} or {"done", "note"};
    what its listener raises ends the child. `folder` is where the child works, `what` names the
    work in messages, `way_out` says what else can be done. The work's own OpenLLMErrors are raised
    here, and as OSError what a disk answered to its writing; a child that crashes, or is not done
    after `limit_s`, is a WeightsError.
    """
    with tempfile.TemporaryFile() as words, _child(folder, threads, words) as process:
        timer = threading.Timer(limit_s, process.kill)
        timer.start()
        try:
            return _hear(process, work, request, meter)
        except _Ended as ended:
            if ended.args:
                how = str(ended)
            elif timer.is_alive():
                how = _how_it_ended(process, words)
            else:
                how = f"its process was not done after {limit_s / 60:.0f} minutes"
            raise WeightsError(f"{what} failed: {how}; try again, or {way_out}") from None
        finally:
            timer.cancel()


class _Ended(Exception):
    """The child is gone without a result, or speaks nonsense. Its words, if any, say how."""


@contextmanager
def _child(folder: Path, threads: int, words: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-I", str(PACKAGE / "store" / "child_work.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=words,
        cwd=folder,
        env=bare_environment(threads),
        # Away from the terminal: on Ctrl-C this process ends it.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def _hear(
    process: subprocess.Popen[bytes], work: str, request: Mapping[str, Any], meter: Meter
) -> Mapping[str, Any]:
    assert process.stdin
    assert process.stdout
    order = {"path": _path(), "parent": getpid(), "work": work, "request": request}
    try:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
    except OSError:
        raise _Ended from None
    while line := process.stdout.readline(LONGEST_LINE):
        message = _parse(line)
        if isinstance(result := message.get("result"), dict):
            return result
        if isinstance(error := message.get("error"), dict):
            raise from_frame({**error, "message": _plain(str(error.get("message")))})
        if "os_error" in message:
            raise _os_error(message["os_error"])
        _show(message, meter)
    raise _Ended


def _os_error(told: object) -> Exception:
    match told:
        case [int(number), str(words), str(name)]:
            words, name = _plain(words), _plain(name)
        case _:
            return _Ended()
    if number in _OF_DISKS:
        return OSError(number, words, name or None)
    return _Ended(f"the system answered: {words}" + (f" ({name})" if name else ""))


def _show(message: Mapping[str, Any], meter: Meter) -> None:
    phase, total, done = (message.get(name) for name in ("phase", "total", "done"))
    note = _plain(str(message.get("note", "")))
    if phase in get_args(Phase):
        meter.begin(cast(Phase, phase), total if isinstance(total, int) else None, note=note)
    elif isinstance(done, int):
        meter.add(done, note=note or None)


def _parse(line: bytes) -> Mapping[str, Any]:
    """Reads a message as carefully as a stranger's: the child may run a stranger's program."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise _Ended from None
    if not isinstance(message, dict):
        raise _Ended
    return message


def _path() -> list[str]:
    """Where this process imports from, without what depends on the folder it happens to be in."""
    path = [entry for entry in sys.path if Path(entry).is_absolute()]
    return path if str(PACKAGE.parent) in path else [str(PACKAGE.parent), *path]


def _how_it_ended(process: subprocess.Popen[bytes], words: IO[bytes]) -> str:
    try:
        status = process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return "its process does not answer as it should"
    if status == -signal.SIGKILL:
        return "the system ended its process, as it does when memory runs short"
    how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
    words.seek(max(0, words.seek(0, 2) - 4 * WORDS))
    lines = words.read().decode("utf-8", "replace").strip().splitlines()
    return f"its process ended {how}" + (f" ({_plain(lines[-1])})" if lines else "")


def _plain(text: str) -> str:
    """Text that can do nothing to a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:WORDS]
