"""A person at a terminal: a program on a pseudo-terminal, what is typed, and what is seen."""

from __future__ import annotations

import errno
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from running import HANG_S

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """`with Terminal([...]) as person: person.sees(">>> "); person.types("Hello")`."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self._own, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env={**environment, "TERM": "dumb", "COLUMNS": "100"},
            start_new_session=True,
            # The terminal becomes the program's own, so that Ctrl-C in it is a signal.
            preexec_fn=lambda: _own_terminal(0),
        )
        os.close(theirs)
        self._unread = ""

    def sees(self, words: str) -> str:
        """Waits for `words`; gives what came before them."""
        deadline = time.monotonic() + HANG_S
        while words not in self._unread:
            assert time.monotonic() < deadline, f"no {words!r} in {self._unread!r}"
            assert self._read(), f"the program ended before {words!r}: {self._unread!r}"
        before, _, self._unread = self._unread.partition(words)
        return before

    def types(self, text: str, *, enter: bool = True) -> None:
        os.write(self._own, text.encode() + (b"\n" if enter else b""))

    def ends(self) -> int:
        """Waits for the end; gives the exit code."""
        while self._read():
            pass
        return self.process.wait(HANG_S)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._own], [], [], HANG_S)
        assert ready, f"nothing more came after {self._unread!r}"
        try:
            chunk = os.read(self._own, 65_536)
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that the other end is closed
                raise
            return False
        self._unread += _CONTROL.sub("", chunk.decode("utf-8", "replace")).replace("\r\n", "\n")
        return bool(chunk)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(HANG_S)
        os.close(self._own)


def _own_terminal(descriptor: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
