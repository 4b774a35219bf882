"""How the API worker's uvicorn is set up, where BentoML's worker module would choose otherwise."""

from __future__ import annotations

import os
import ssl
from typing import Any

import uvicorn

from .config.resolved import VARIABLE, Resolved
from .config.schema import ServerConfig

MAX_HEADER_BYTES = 16 * 1024
_PlainConfig = uvicorn.Config


def configure_uvicorn() -> None:
    """Lays our options over those of BentoML's worker.

    It drops the TLS ciphers it was given, takes whole seconds only, and would show the key's
    password in the process list.
    """
    options = http_options(Resolved.load(os.environ[VARIABLE]).server)

    class Config(_PlainConfig):
        def __init__(self, app: Any, **given: Any) -> None:
            super().__init__(app, **{**given, **options})

    uvicorn.Config = Config  # type: ignore[assignment,misc]


def http_options(server: ServerConfig) -> dict[str, Any]:
    """Keywords of `uvicorn.Config`."""
    options: dict[str, Any] = {
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": server.keep_alive_s,
        "timeout_graceful_shutdown": server.drain_timeout_s,
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
