"""`python -m open_llm_server.healthcheck`: whether the server of this container is ready.

What images run as their health check. Finds the server by the note that its supervisor leaves in
its runtime folder, whatever port it was given, and asks its /readyz. Imports nothing heavy.
"""

from __future__ import annotations

import os
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from .supervisor_sockets import PREFIX, PROBE_URL

TIMEOUT_S = 5.0


def fault(parent: Path) -> str | None:
    """What keeps the newest server with a runtime folder in `parent` from being ready."""
    found = [(note.stat(), note) for note in parent.glob(f"{PREFIX}*/{PROBE_URL}")]
    own = [(facts.st_mtime_ns, note) for facts, note in found if facts.st_uid == os.getuid()]
    if not own:
        return "no server runs here"
    return _unready(max(own)[1].read_text())


def _unready(url: str) -> str | None:
    context = ssl.create_default_context()
    # It is this very machine, whatever name its certificate has.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    try:
        with urllib.request.build_opener(*handlers).open(f"{url}/readyz", timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return f"{url}/readyz answers {error.code}"
    except (OSError, ValueError) as error:
        # A server that wants certificates of its callers answers, though not to us.
        if "CERTIFICATE_REQUIRED" in str(error):
            return None
        return f"{url}/readyz does not answer: {error}"


def main() -> None:
    found = fault(Path(tempfile.gettempdir()))
    if found:
        sys.exit(found)


if __name__ == "__main__":
    main()
