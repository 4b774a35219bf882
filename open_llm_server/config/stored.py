"""Whether the store on this machine has what a SOURCE names. Touches no network."""

from __future__ import annotations

from pathlib import Path

from ..errors import WeightsError
from .models import Source
from .weights import WeightsKind


def look_up(source: Source | None, kind: WeightsKind, name: str) -> Path | None:
    """What an engine loads for `source`; `None` for paths, and for what is yet to be imported.

    Of several imports of it, the one that was imported as `name` is meant, where there is one.

    Raises WeightsError for a tag that is not in the store, for weights of another kind, and for
    files that were changed after their import.
    """
    if source is None or kind == "none" or source.kind in ("path", "builtin"):
        return None
    from ..store.catalog import find, get, untouched

    if source.kind == "store":
        entry = get(source.location)
        if entry.manifest.weights != kind:
            raise WeightsError(
                f"{entry.tag} was imported for family {entry.manifest.family}, and cannot be "
                f"started under another: {entry.manifest.family}@store:{entry.tag}"
            )
    else:
        found = find(source, kind, name)
        if found is None:
            return None
        entry = found
    fault = untouched(entry)
    if fault:
        raise WeightsError(
            f"the imported model {entry.tag} is not what was imported: {fault}; "
            f"`open-llm-server models verify {entry.tag}` reads it all, and takes it if only its "
            f"times differ; else `open-llm-server models rm {entry.tag}`, and import it again"
        )
    return entry.path
