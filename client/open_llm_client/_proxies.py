"""The proxy that the environment names for a server. Opens nothing.

No text here may show the name or the password that a proxy's URL may have.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from ._endpoint import Endpoint
from .errors import ConnectionFailed

_SCHEMES = ("http", "https", "socks5", "socks5h")


class Proxy(NamedTuple):
    url: str
    variable: str
    """Where it stands."""

    def __str__(self) -> str:
        return f"the proxy {self.url.rpartition('@')[2]} that {self.variable} names"

    def __repr__(self) -> str:
        return f"Proxy({self.variable})"


def proxy_of(endpoint: Endpoint) -> Proxy | None:
    """`None` for servers on this machine too. Raises ConnectionFailed for what is no proxy."""
    if endpoint.loopback:
        return None
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    if not proxies or proxy_bypass(f"{endpoint.host}:{endpoint.port}"):
        return None
    if endpoint.scheme in ("grpc", "grpcs"):
        # The library's own order; it reads no others.
        names: tuple[str, ...] = ("grpc", "https", "http")
    else:
        names = (endpoint.scheme, "all")
    return _first(proxies, names)


def _first(proxies: Mapping[str, str], names: tuple[str, ...]) -> Proxy | None:
    for name in names:
        if url := proxies.get(name):
            proxy = Proxy(url if "://" in url else f"http://{url}", _variable(f"{name}_proxy"))
            _check(proxy)
            return proxy
    return None


def _variable(name: str) -> str:
    return next((each for each in os.environ if each.lower() == name), f"{name} of the system")


def _check(proxy: Proxy) -> None:
    try:
        parts = urlsplit(proxy.url)
        usable = parts.scheme.lower() in _SCHEMES and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise unusable(proxy)


def unusable(proxy: Proxy) -> ConnectionFailed:
    return ConnectionFailed(
        f"{proxy.variable} names no proxy that can be used; set it to one such as "
        "http://proxy.example:3128, or put the server's host into NO_PROXY"
    )
