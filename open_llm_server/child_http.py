"""How the API worker's uvicorn is set up, where BentoML's worker module would choose otherwise."""

from __future__ import annotations

import math
import os
import ssl
import time
from pathlib import Path
from typing import Any

import uvicorn

from .config.resolved import VARIABLE, Resolved
from .config.schema import ServerConfig
from .supervisor_sockets import DRAINING

MAX_HEADER_BYTES = 16 * 1024
CUT_GRACE_S = 1.0
"""Past the drain limit, for the last words of the answers that it cut."""
_PlainConfig = uvicorn.Config
_PlainServer = uvicorn.Server


def configure_uvicorn() -> None:
    """Lays our options over those of BentoML's worker, and our way of ending over uvicorn's.

    BentoML drops the TLS ciphers it was given, takes whole seconds only, and would show the key's
    password in the process list.
    """
    path = Path(os.environ[VARIABLE])
    options = http_options(Resolved.load(path).server)
    sign = path.parent / DRAINING

    class Config(_PlainConfig):
        def __init__(self, app: Any, **given: Any) -> None:
            super().__init__(app, **{**given, **options})

    class Server(_PlainServer):
        """While the server drains, goes on accepting until the last open request is done.

        uvicorn would close the socket at once, and callers would hear nothing instead of a 503.
        """

        cut_at: float | None = None

        async def on_tick(self, counter: int) -> bool:
            told = await super().on_tick(counter)
            if not told or self.force_exit or not sign.exists():
                return told
            now = time.monotonic()
            if self.cut_at is None:
                self.cut_at = now + options["timeout_graceful_shutdown"]
            # What was answered may still be on its way to a slow reader.
            self.config.timeout_graceful_shutdown = max(1, math.ceil(self.cut_at - now))
            return not self.server_state.tasks or now >= self.cut_at

    # The worker looks for them under these names.
    vars(uvicorn).update(Config=Config, Server=Server)


def http_options(server: ServerConfig) -> dict[str, Any]:
    """Keywords of `uvicorn.Config`."""
    options: dict[str, Any] = {
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": server.keep_alive_s,
        "timeout_graceful_shutdown": server.drain_timeout_s + CUT_GRACE_S,
        "h11_max_incomplete_event_size": MAX_HEADER_BYTES,
        "lifespan": "on",
    }
    if server.tls_cert:
        options |= {
            "ssl_certfile": server.tls_cert,
            "ssl_keyfile": server.tls_key,
            "ssl_keyfile_password": server.tls_key_password,
            "ssl_ca_certs": server.tls_ca,
            "ssl_cert_reqs": ssl.CERT_REQUIRED if server.tls_ca else ssl.CERT_NONE,
            # TLS 1.2 at least, and the strong ciphers only: Python's own defaults since 3.10.
            "ssl_version": ssl.PROTOCOL_TLS_SERVER,
            "ssl_ciphers": None,
        }
    return options
