"""Changes what a manifest in the store says, one at a time and in one step.

Owns that nothing is written back which somebody else has changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable

from . import manifest as manifests
from . import places
from .durable import replace
from .locking import STORE, held
from .manifest import Entry, Manifest


def amend(entry: Entry, change: Callable[[Manifest], Manifest]) -> Entry:
    """Writes what `change` makes of the manifest of `entry`, as it is by now; returns what stands.

    Raises WeightsError; OSError where the store cannot be written, FileNotFoundError where the
    model is gone.
    """
    with held(STORE):
        known = manifests.read(entry.folder)
        new = change(known)
        if new != known:
            rewrite(entry, new)
    return Entry(entry.folder, new)


def rewrite(entry: Entry, new: Manifest) -> None:
    """Puts `new` in place of the manifest of `entry`. Whoever calls holds the lock of the store."""
    text = new.model_dump_json(indent=1)
    replace(entry.folder / manifests.NAME, text, spare=places.workshop() / manifests.NAME)
