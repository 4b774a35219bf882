"""One request as log and metrics see it, through whichever door it came.

Owns what is known about a request besides its content. Knows no HTTP and no gRPC.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets

access = logging.getLogger("open_llm_server.access")
_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class Visit:
    """Made when a request arrives. `route` is one of few; `model` is empty until it is known."""

    def __init__(self, *, method: str, path: str) -> None:
        self.id = ""
        self.method = method
        self.path = path
        self.began_at = asyncio.get_running_loop().time()
        self.caller = ""
        """Whose request it is; empty where no keys are configured."""
        self.route = "unknown"
        self.model = ""
        self.reason = ""
        """Why the answer ended, or the code of the error."""
        self.prompt_tokens = 0
        self.completion_tokens = 0

    @property
    def outcome(self) -> str:
        """The status that was answered, as the door's protocol writes it."""
        raise NotImplementedError

    def log(self, took_s: float) -> None:
        """A line in the access log."""
        # No prompt, no key, no query: ascii() spells out line ends and terminal codes.
        access.info(
            "%s %s %s %.1fms tokens=%d+%d model=%s reason=%s id=%s",
            ascii(self.method[:16])[1:-1],
            ascii(self.path[:200])[1:-1],
            self.outcome,
            took_s * 1000,
            self.prompt_tokens,
            self.completion_tokens,
            self.model or "-",
            self.reason or "-",
            self.id,
        )


def request_id(asked: str | None) -> str:
    """What the caller calls the request, where that is fit to be written down; else a new id."""
    return asked if asked and _ID.fullmatch(asked) else secrets.token_hex(16)
