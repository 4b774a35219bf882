"""Leaves this very process one folder to write in: Linux's Landlock. For good.

Reading stays as it is, but for other processes' memory, which the kernel closes as well. Knows
nothing of why it is wanted.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_CREATE_RULES, _ADD_RULE, _RESTRICT = 444, 445, 446
"""The same numbers on every machine."""
_ASK_VERSION = 1
_PATH_BENEATH = 1
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
# remove_dir, remove_file, then make_char to make_sym
_SINCE_1 = _WRITE_FILE | sum(1 << place for place in range(4, 13))
_SINCE = {2: 1 << 13, 3: _TRUNCATE, 5: 1 << 15}
"""Rights that later versions know of: to move between folders, to shorten, to steer devices."""
_DEVICE = Path(os.devnull)


def write_only_below(folder: Path, libc: ctypes.CDLL) -> str | None:
    """This process, from now on, makes and changes files below `folder` only. Returns why not.

    `libc`: with errno. To be called after PR_SET_NO_NEW_PRIVS, and before there are threads.
    """
    version = libc.syscall(_CREATE_RULES, None, ctypes.c_size_t(0), _ASK_VERSION)
    if version < 1:
        return f"the kernel has no Landlock: {os.strerror(ctypes.get_errno())}"
    rights = _SINCE_1 | sum(right for since, right in _SINCE.items() if version >= since)
    rules = libc.syscall(_CREATE_RULES, struct.pack("=Q", rights), ctypes.c_size_t(8), 0)
    if rules < 0:
        return f"no rules of Landlock: {os.strerror(ctypes.get_errno())}"
    try:
        _allow(libc, rules, rights, folder)
        _allow(libc, rules, rights & (_WRITE_FILE | _TRUNCATE), _DEVICE)
        if libc.syscall(_RESTRICT, rules, 0):
            return f"no rules of Landlock: {os.strerror(ctypes.get_errno())}"
    except OSError as error:
        return f"no rules of Landlock: {error}"
    finally:
        os.close(rules)
    return None


def _allow(libc: ctypes.CDLL, rules: int, rights: int, path: Path) -> None:
    """Adds a rule: `rights` at `path`, and below it. Raises OSError."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, place)
        if libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    finally:
        os.close(place)
