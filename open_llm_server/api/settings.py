"""What the API is told when it is built: limits, keys, hosts, and the models it serves.

Values only. Knows nothing of where they were configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..port import ModelPort


@dataclass(frozen=True, kw_only=True)
class ApiSettings:
    """Limits in seconds and bytes. `host` is the address that the server is bound to."""

    version: str = "0"
    host: str = "127.0.0.1"
    api_key_hashes: tuple[str, ...] = field(default=(), repr=False)
    """From `auth.hash_key`; empty: everyone may call."""
    body_limit: int = 2 * 1024 * 1024
    body_timeout_s: float = 30.0
    """A request's body must have arrived by then."""
    timeout_s: float = 600.0
    """Longest time that one request may take; `X-Request-Timeout` may ask for less."""
    drain_timeout_s: float = 30.0
    """Once the server is about to stop, answers may go on for so long."""
    silence_s: float = 30.0
    """A model that sends no frame for so long is taken for lost."""
    keep_alive_s: float = 15.0
    """How often a waiting stream sends a comment, so that proxies keep it open."""
    write_timeout_s: float = 30.0
    """A client that reads nothing for so long is taken for gone."""
    allowed_hosts: tuple[str, ...] = ()
    """Further `Host` values to answer to; "*": any."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages of other sites that may call, as "https://site.example"; "*": any."""
    probes_only: bool = False
    """HTTP answers probes and metrics alone: requests come over gRPC."""
    runtime_dir: Path | None = None
    """Where the supervisor puts a file named `draining` before it stops the server."""


@dataclass(frozen=True)
class ServedModel:
    """One model and its copies. `facts`: family, card, context_length and the like."""

    name: str
    aliases: tuple[str, ...]
    ports: tuple[ModelPort, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
