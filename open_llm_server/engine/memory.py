"""How much memory there is, and how long a context may be in it. Pure but for reading the system.

The same arithmetic for every engine: they differ in the bytes that a token takes, which `fit_llama`
and `fit_torch` know.
"""

from __future__ import annotations

import ctypes
import logging
import os
from pathlib import Path

from ..errors import ConfigurationError
from .cgroup import free_here

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
    limited = free_here()
    return free if limited is None else min(free, limited)


def give_back() -> None:
    """Returns freed memory to the system, where the C library keeps it: loading leaves much."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def default_context(
    trained: int, *, sequences: int, token_bytes: int, free: int, multiple: int = 1
) -> int:
    """Tokens for each of `sequences` when nobody said how many: the model's own `trained`, or what
    fits into a share of the `free` bytes. Of those a `multiple`."""
    room = int(free * DEFAULT_MEMORY_SHARE / max(1, token_bytes * sequences))
    return min(trained, max(SHORTEST_DEFAULT, room // multiple * multiple))


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
    force: bool = False,
) -> int:
    """Tokens for each of `sequences`: as `wanted`, else the model's own, if memory permits.

    `name` is the model's for messages, `trained` the tokens it was made for, `token_bytes` what a
    token takes in a sequence, `free` the bytes there are, `moving` how many more sequences' worth
    may be needed for a while. The default is a `multiple`. `unbounded`: longer contexts than the
    trained one are usual with this model. Raises ConfigurationError for what does not fit, unless
    told to `force` it.
    """
    if wanted is None:
        longest = default_context(
            trained, sequences=sequences, token_bytes=token_bytes, free=free, multiple=multiple
        )
        if longest < trained:
            log.warning(
                "%s can hold %d tokens; %d fit into memory for each of %d slots "
                "(--context-length, --slots)",
                name,
                trained,
                longest,
                sequences,
            )
        return longest
    needed = wanted * (sequences + moving) * token_bytes
    if needed > free and not force:
        room_to_move = ", and room to move them," if moving else ""
        raise ConfigurationError(
            f"{sequences} slots of {wanted} tokens{room_to_move} need {needed / GIB:.1f} GiB, and "
            f"{free / GIB:.1f} GiB are free; lower --context-length or --slots, or "
            "try it all the same with --force"
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
