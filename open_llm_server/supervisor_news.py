"""What the person who started the server reads of its workers: their lines, and import bars.

Owns the terminal's bars; what a line looks like in a pipe is `supervisor_logs`' business.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from . import supervisor_logs
from .supervisor_logs import PROGRESS, say

if TYPE_CHECKING:
    from .cli_progress import Bars


class News:
    """Shows each worker's lines as they come."""

    def __init__(self) -> None:
        self._bars: Bars | None = None

    def show(self, label: str, line: str) -> None:
        """A line that a worker wrote."""
        if line.startswith(PROGRESS):
            # A line that a crash cut in half is worth nothing.
            with contextlib.suppress(ValueError, TypeError):
                self._progress(label, line.removeprefix(PROGRESS))
        else:
            say(f"{label}: {line}")

    def over(self, label: str) -> None:
        """The worker is ready, or has ended: nothing of it is on its way any more."""
        if self._bars:
            self._bars.end(label)

    def close(self) -> None:
        """Takes the bars away."""
        if self._bars:
            self._bars.close()
            supervisor_logs.speak_through(None)
            self._bars = None

    def _progress(self, label: str, text: str) -> None:
        from .cli_progress import Bars
        from .store.progress import Progress

        progress = Progress(**json.loads(text))
        if self._bars is None:
            self._bars = Bars()
            # Or a line would tear the bars apart.
            supervisor_logs.speak_through(self._bars.say)
        self._bars.update(label, progress)
