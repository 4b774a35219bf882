"""How much memory there is, and how long a context may be in it. Pure but for reading the system.

The same arithmetic for every engine: they differ in the bytes that a token takes.
"""

from __future__ import annotations

import ctypes
import logging
import os
from pathlib import Path

from ..errors import ConfigurationError

log = logging.getLogger(__name__)

GIB = 1024**3
DEFAULT_MEMORY_SHARE = 0.5
"""Share of the free memory that contexts may take when nobody said how long they shall be."""
SHORTEST_DEFAULT = 512


def free_memory() -> int:
    """Bytes that can be allocated on this machine, or within this container's limit."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    known = {name: int(rest.split()[0]) * 1024 for name, rest in (x.split(":") for x in lines)}
    free = known.get("MemAvailable", known["MemTotal"])
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
    return min(free, max(0, limit - used))


def give_back() -> None:
    """Returns freed memory to the system, where the C library keeps it: loading leaves much."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def fit_context(
    name: str,
    wanted: int | None,
    *,
    trained: int,
    sequences: int,
    token_bytes: int,
    free: int,
    moving: int = 0,
    multiple: int = 1,
    unbounded: bool = False,
) -> int:
    """Tokens for each of `sequences`: as `wanted`, else the model's own, if memory permits.

    `name` is the model's for messages, `trained` the tokens it was made for, `token_bytes` what a
    token takes in a sequence, `free` the bytes there are, `moving` how many more sequences' worth
    may be needed for a while. The default is a `multiple`. `unbounded`: longer contexts than the
    trained one are usual with this model. Raises ConfigurationError for what does not fit.
    """
    if wanted is None:
        room = int(free * DEFAULT_MEMORY_SHARE / max(1, token_bytes * sequences))
        longest = max(SHORTEST_DEFAULT, room // multiple * multiple)
        if longest < trained:
            log.warning(
                "%s can hold %d tokens; %d fit into memory for each of %d slots "
                "(--context-length, --slots)",
                name,
                trained,
                longest,
                sequences,
            )
        return min(trained, longest)
    needed = wanted * (sequences + moving) * token_bytes
    if needed > free:
        room_to_move = ", and room to move them," if moving else ""
        raise ConfigurationError(
            f"{sequences} slots of {wanted} tokens{room_to_move} need {needed / GIB:.1f} GiB, and "
            f"{free / GIB:.1f} GiB are free; lower --context-length or --slots"
        )
    if wanted > trained and not unbounded:
        log.warning(
            "%s was trained for %d tokens; what lies beyond them will make little sense "
            "(--context-length %d)",
            name,
            trained,
            wanted,
        )
    return wanted
