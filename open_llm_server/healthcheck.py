"""`python -m open_llm_server.healthcheck`: whether the server of this container is ready.

What images run as their health check. Finds the server by the note that its supervisor leaves in
its runtime folder, whatever port it was given, and asks its /readyz. Imports nothing heavy.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from .supervisor_sockets import PREFIX, PROBE_URL

TIMEOUT_S = 5.0


def fault(parent: Path) -> str | None:
    """What keeps the newest server with a runtime folder in `parent` from being ready."""
    found = [(note.stat(), note) for note in parent.glob(f"{PREFIX}*/{PROBE_URL}")]
    own = [(facts.st_mtime_ns, note) for facts, note in found if facts.st_uid == os.getuid()]
    if not own:
        return "no server runs here"
    url, _, mutual = max(own)[1].read_text().partition(" ")
    return _deaf(url) if mutual else _unready(url)


def _deaf(url: str) -> str | None:
    """All that can be asked of a server that lets in nobody without a certificate."""
    parts = urlsplit(url)
    try:
        with (
            socket.create_connection((parts.hostname, parts.port or 0), TIMEOUT_S) as connection,
            _context().wrap_socket(connection),
        ):
            return None
    except OSError as error:
        return f"{url} does not answer: {error}"


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    # It is this very machine, whatever name its certificate has.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _unready(url: str) -> str | None:
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_context())
    try:
        with urllib.request.build_opener(*handlers).open(f"{url}/readyz", timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return f"{url}/readyz answers {error.code}"
    except (OSError, ValueError) as error:
        return f"{url}/readyz does not answer: {error}"


def main() -> None:
    found = fault(Path(tempfile.gettempdir()))
    if found:
        sys.exit(found)


if __name__ == "__main__":
    main()
