"""Takes the network, and all reach for other processes, away from this very process. Linux; for
good.

A filter of system calls (seccomp) does it, and must be. Further walls, where there are such: a
network namespace in which there is nothing, and no writing outside of one folder (`landlock`).
Knows nothing of why it is wanted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from pathlib import Path

from .landlock import write_only_below

CLONE_NEWUSER, CLONE_NEWNET, CLONE_THREAD = 0x10000000, 0x40000000, 0x00010000
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION, _CAP_DAC_READ_SEARCH = 0x20080522, 2
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Instructions of the kernel's classic filter machine."""
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENT_AT = 0, 4, 16
"""Where the filter finds a call's number, its architecture, the low half of its first argument."""
_KILL, _ALLOW, _FAIL = 0x80000000, 0x7FFF0000, 0x00050000
_X32 = 0x40000000
"""From here on, call numbers are those of a second interface of x86-64."""

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_CLONE = {"x86_64": 56, "aarch64": 220}
_LIMIT = {"x86_64": 302, "aarch64": 261}
"""prlimit64, whose first argument is a process; 0 is this one."""
_CLONE3, _IO_URING, _SEND_SIGNAL, _GET_FD = 435, (425, 426, 427), 424, 438
_FORBIDDEN = {
    "x86_64": (
        # socket connect accept sendto sendmsg bind listen socketpair accept4 sendmmsg
        *(41, 42, 43, 44, 46, 49, 50, 53, 288, 307),
        # fork vfork execve execveat
        *(57, 58, 59, 322),
        # kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo
        *(62, 200, 234, 129, 297),
        # ptrace process_vm_readv process_vm_writev kcmp open_by_handle_at
        *(101, 310, 311, 312, 304),
        # unshare setns mount pivot_root chroot bpf perf_event_open userfaultfd
        *(272, 308, 165, 155, 161, 321, 298, 323),
        # add_key request_key keyctl
        *(248, 249, 250),
    ),
    "aarch64": (
        *(198, 203, 202, 206, 211, 200, 201, 199, 242, 269),
        *(221, 281),
        *(129, 130, 131, 138, 240),
        *(117, 270, 271, 272, 265),
        *(97, 268, 40, 41, 51, 280, 241, 282),
        *(217, 218, 219),
    ),
}
"""Sockets, programs, other processes, and ways around the walls; in the same order."""


class NotPossible(Exception):
    """What has to be cannot be had here; the words say why."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def cut_off(folder: Path) -> None:
    """Puts up the walls that there are; only below `folder` can be written, where the kernel knows
    how. Raises NotPossible where network, programs or other processes stay in reach.

    To be called before this process has a second thread.
    """
    if sys.platform != "linux":
        raise NotPossible(f"{platform.system()} has no way for a process to give up the network")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise NotPossible(f"privileges cannot be given up: {os.strerror(ctypes.get_errno())}")
    missing = [_empty_namespace(libc), write_only_below(folder, libc)]
    if reason := _drop_capabilities(libc) or _filter_calls(libc):
        raise NotPossible(reason)
    if _reaches_parent():
        reasons = "; ".join(filter(None, missing))
        raise NotPossible(f"it could write into other processes' memory ({reasons})")


def _empty_namespace(libc: ctypes.CDLL) -> str | None:
    """A network of this process's own, with nothing in it. Returns why not."""
    # The first is for root alone, whom the second would cost its way into others' folders.
    if libc.unshare(CLONE_NEWNET) and libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
        return f"no network namespace: {os.strerror(ctypes.get_errno())}"
    return None


def _drop_capabilities(libc: ctypes.CDLL) -> str | None:
    """Root is left with its way into others' folders, for reading: Python may be installed there.

    What the kernel asks before one process may look into another: whether it has all capabilities
    that the other one has. Returns why not.
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    # effective, permitted, inheritable: of numbers 0 to 31, then the same from 32 on
    held = (ctypes.c_uint32 * 6)()
    if libc.capget(header, held) == 0:
        kept = held[1] & 1 << _CAP_DAC_READ_SEARCH
        if libc.capset(header, (ctypes.c_uint32 * 6)(kept, kept)) == 0:
            return None
    return f"capabilities cannot be given up: {os.strerror(ctypes.get_errno())}"


def _reaches_parent() -> bool:
    """Whether, for all that, this process can write into the one that started it."""
    try:
        os.close(os.open(f"/proc/{os.getppid()}/mem", os.O_RDWR))
    except OSError:
        return False
    return True


def _filter_calls(libc: ctypes.CDLL) -> str | None:
    """The kernel refuses what is forbidden, in every thread. Returns why not."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return f"no filter of system calls is known for {machine}"
    code = program(machine)
    filter_ = _Program(len(code) // 8, code)
    if libc.syscall(_SECCOMP[machine], _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(filter_)):
        return f"no filter of system calls: {os.strerror(ctypes.get_errno())}"
    return None


def program(machine: str) -> bytes:
    """The filter in the kernel's words: 8 bytes an instruction."""
    fail, no_such_call = _FAIL | errno.EPERM, _FAIL | errno.ENOSYS
    lines = [
        _line(_LOAD, _ARCHITECTURE_AT),
        _line(_EQUAL, _ARCHITECTURES[machine], yes=1),
        _line(_RETURN, _KILL),
        _line(_LOAD, _NUMBER_AT),
        # The C library then starts threads by the older call, whose flags can be seen.
        *_when(_EQUAL, _CLONE3, no_such_call),
    ]
    if machine == "x86_64":
        lines += _when(_AT_LEAST, _X32, _KILL)
    for number in (*_FORBIDDEN[machine], *_IO_URING, _SEND_SIGNAL, _GET_FD):
        lines += _when(_EQUAL, number, fail)
    lines += [
        _line(_EQUAL, _LIMIT[machine], no=4),
        _line(_LOAD, _ARGUMENT_AT),
        *_when(_EQUAL, 0, _ALLOW),
        _line(_RETURN, fail),
        _line(_EQUAL, _CLONE[machine], yes=1),
        _line(_RETURN, _ALLOW),
        _line(_LOAD, _ARGUMENT_AT),
        *_when(_HAS_BITS, CLONE_THREAD, _ALLOW),
        _line(_RETURN, fail),
    ]
    return b"".join(lines)


def _when(test: int, value: int, verdict: int) -> list[bytes]:
    return [_line(test, value, no=1), _line(_RETURN, verdict)]


def _line(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """One instruction; `yes` and `no`: how many are skipped after a test."""
    return struct.pack("=HBBI", code, yes, no, value)
