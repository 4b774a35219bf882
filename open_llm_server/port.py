"""The one seam between the wire formats and the models.

Behind it stands a BentoML runner today; a cluster's handle or a remote server can stand there
tomorrow. Nothing of BentoML crosses it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from .frames import Frame


class ModelPort(Protocol):
    """One copy of one model."""

    def stream(self, request: str, *, session: str) -> AsyncGenerator[Frame, None]:
        """Sends `request` (from `frames.encode_call`) and yields the frames of its answer.

        `session` names the caller, for whoever places requests by it. The reader closes the
        generator in every case; closing it early cancels the work. Raises Busy, Gone or Lost,
        and nothing else.
        """
        ...


class Busy(Exception):
    """Nothing was started; `retry_after` seconds from now there may be room."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"no room for {retry_after:.0f} s")
        self.retry_after = retry_after


class Gone(Exception):
    """No such model behind this port."""


class Lost(Exception):
    """The model's process died or fell silent.

    Another try elsewhere is allowed only when not `started`: no frame was seen.
    """

    def __init__(self, *, started: bool, why: str) -> None:
        super().__init__(why)
        self.started = started
