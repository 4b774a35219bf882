"""The version that a NAME alone means to BentoML. Whoever calls holds the lock of the store."""

from __future__ import annotations

import contextlib

from . import catalog
from .durable import replace
from .places import models, workshop

_FILE = "latest"


def point_latest(name: str) -> None:
    """Writes which version of `name` is the newest; without any, its folder goes.

    Versions that other tools keep under the name stay, and BentoML chooses among them.
    """
    home = models() / name
    newest = next(iter(catalog.entries(name)), None)
    if newest:
        replace(home / _FILE, newest.tag.version, spare=workshop() / _FILE)
        return
    (home / _FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody else's files are in it, or it is gone
        home.rmdir()
