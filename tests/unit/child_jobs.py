"""What children of `test_child_process` do."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from open_llm_server.errors import WeightsError

Say = Callable[[Mapping[str, Any]], None]


def tell(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    print("libraries print")  # noqa: T201 (that is what is tried)
    say({"phase": "copying", "total": 3, "note": "a\x1b[31m"})
    say({"done": 3})
    return {"request": request, "folder": str(Path.cwd()), "environment": dict(os.environ)}


def refuse(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    raise WeightsError("it is\x1b[31m wrong; take another")


def fail(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    raise ZeroDivisionError("nothing\x07 left")


def fill(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    raise OSError(errno.ENOSPC, "No space\x1b[31m left", "/some/file")


def miss(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    Path("not there").read_bytes()
    return {}


def pretend(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    say({"os_error": {"errno": 28}})
    return {}


def crash(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    ctypes.string_at(0)
    return {}


def end(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    os.kill(os.getpid(), 9)
    return {}


def babble(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    for fd in range(3, 10):
        try:
            os.write(fd, b"no JSON\n")
        except OSError:
            continue
    time.sleep(60)
    return {}


def wait(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    say({"phase": "copying", "note": str(os.getpid())})
    time.sleep(60)
    return {}
