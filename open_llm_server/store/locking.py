"""One at a time, between processes and threads: locks that end with whoever holds them.

A lock is a file under `places.locks` that `flock` is held on; a holder that is killed loses it.
Children that a holder starts must not inherit it, so they are started with `subprocess`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import WeightsError
from . import places

STORE = ".store"
"""Held for the moments in which names in `models` change; no slug begins with a dot."""
_LOOK_EVERY_S = 0.1


@contextmanager
def held(name: str, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Holds the lock `name`, and waits for it; `waiting` is called before each further look.

    Whoever waited must look again whether what it wants is done. Raises WeightsError where the
    file system has no locks, OSError.
    """
    while (descriptor := _try(name)) is None:
        waiting()
        time.sleep(_LOOK_EVERY_S)
    try:
        yield
    finally:
        _release(name, descriptor)


@contextmanager
def held_if_free(name: str) -> Iterator[bool]:
    """Holds the lock `name` if nobody does; gives whether it was so."""
    descriptor = _try(name)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            _release(name, descriptor)


def _try(name: str) -> int | None:
    path = places.locks() / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The last holder removed the file between our two calls: our lock is on nothing.
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise WeightsError(
                f"the file system of {path.parent} has no file locks, so two imports could "
                "disturb each other; set BENTOML_HOME to a folder on another file system"
            ) from error
        raise
    os.close(descriptor)
    return None


def _release(name: str, descriptor: int) -> None:
    # The file goes while the lock is held; those who wait find that theirs is on nothing.
    (places.locks() / f"{name}.lock").unlink(missing_ok=True)
    os.close(descriptor)
