"""Which `Host` and `Origin` headers are answered: the guard against other sites' web pages.

A page elsewhere can make a browser call this server (CSRF), or point its own name at this
machine (DNS rebinding). Neither can choose these headers freely.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from ..errors import HostNotAllowed

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
_PORTS = {"http": "80", "https": "443"}
_NOBODYS = (".localhost", ".local", ".internal")
"""Ends of names that nobody can buy, and so point at a machine of somebody else's."""


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_local(name: str) -> bool:
    """Whether no stranger can have made `name` lead to this machine."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return "." not in name or name.endswith(_NOBODYS)
    return True


class HostGuard:
    """Checks by the address that the server is bound to and the lists it was given."""

    def __init__(
        self,
        bound: str,
        *,
        allowed_hosts: Sequence[str],
        allowed_origins: Sequence[str],
        has_keys: bool = False,
    ) -> None:
        """With keys, a server on a network answers to any name: a page that was led there has
        none. Without them, as in a container whose port is published on loopback, only to
        addresses and to names that no stranger can point here."""
        on_network = not (is_loopback(bound) or allowed_hosts)
        self._any_host = "*" in allowed_hosts or (on_network and has_keys)
        self._local_names = on_network and not has_keys
        self._hosts = {host.lower() for host in (*allowed_hosts, bound)}
        self._any_origin = "*" in allowed_origins
        self._origins = {origin.lower().rstrip("/") for origin in allowed_origins}

    def check(self, hosts: Sequence[str], origins: Sequence[str], *, site: str, safe: bool) -> None:
        """Raises HostNotAllowed. `site` is the `Sec-Fetch-Site` value; `safe`: a GET or HEAD."""
        host = self._check_host(hosts)
        if self._any_origin:
            return
        for origin in origins:
            if not (origin.lower() in self._origins or self._same(origin, host)):
                raise HostNotAllowed(
                    f"web pages of {origin[:100]!a} may not call this server; its operator "
                    "can allow them with --allowed-origins",
                    param="origin",
                )
        if site == "cross-site" and not origins and not safe:
            raise HostNotAllowed("this request was made by another site's page", param="origin")

    def _check_host(self, hosts: Sequence[str]) -> str:
        # HTTP/1.0 clients send none. A browser always does, and only browsers can be rebound.
        if not hosts:
            return ""
        match = _HOST.fullmatch(hosts[0]) if len(set(hosts)) == 1 else None
        if match is None:
            raise HostNotAllowed("the Host header is not one host name", param="host")
        name = match[1].lower()
        known = (
            self._any_host
            or is_loopback(name)
            or bool({name, hosts[0].lower()} & self._hosts)
            or (self._local_names and _is_local(name))
        )
        if not known:
            raise HostNotAllowed(
                f"this server does not answer to the name {name[:100]!a}; its operator can "
                "allow it with --allowed-hosts",
                param="host",
            )
        return hosts[0].lower()

    @staticmethod
    def _same(origin: str, host: str) -> bool:
        """Whether a page of `origin` came from this very server."""
        scheme, _, netloc = origin.lower().partition("://")
        default = _PORTS.get(scheme)
        if default is None or not host:
            return False
        return netloc.removesuffix(f":{default}") == host.removesuffix(f":{default}")
