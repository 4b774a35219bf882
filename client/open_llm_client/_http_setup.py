"""What calls over HTTP have in common: URLs, headers, TLS, proxies, and what a failure means.

Opens nothing by itself. httpx is imported here at the first call, and nowhere earlier.
"""

from __future__ import annotations

import json
import socket
import ssl
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from . import _proxies
from ._endpoint import VERIFY, Endpoint, no_authorities
from ._http_reading import Reading
from ._requests import Kind
from ._transport import CONNECT_S, Call
from ._version import __version__
from .errors import BadAnswer, ConnectionFailed, OpenLLMError

if TYPE_CHECKING:
    import httpx

IDLE_S = 4.0
"""Less than the 5 s after which the server closes an idle connection: no call meets that moment."""
_PATHS: dict[Kind, str] = {
    "chat": "/chat",
    "complete": "/complete",
    "embed": "/embed",
    "models": "/v1/models",
    "health": "/readyz",
}
_BROKE_OFF = ("disconnected", "peer closed", "closed connection")


class Setup:
    """Of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        common = {
            # What would be unpacked has no bound known before.
            "accept-encoding": "identity",
            "user-agent": f"open-llm-client/{__version__}",
            **endpoint.headers,
        }
        self._headers = [(name.encode(), value.encode()) for name, value in common.items()]

    def url(self, kind: Kind) -> str:
        return self._endpoint.url + _PATHS[kind]

    def reading(self, call: Call) -> Reading:
        return Reading(call.request, self.url(call.request.kind), call.request_id)

    def request(self, call: Call) -> httpx.Request:
        import httpx

        asked, left = call.request, call.deadline.left()
        headers = [*self._headers]
        if call.request_id:
            headers.append((b"x-request-id", call.request_id.encode()))
        body = b""
        if asked.kind not in ("models", "health"):
            headers.append((b"content-type", b"application/json"))
            fields = {**asked.fields, "stream": True} if asked.stream else asked.fields
            body = json.dumps(fields).encode()
        # Each of these counts from the last byte; the deadline is kept by who sends this.
        timeouts = {"connect": min(left, CONNECT_S), "read": left, "write": left, "pool": left}
        return httpx.Request(
            "POST" if body else "GET",
            self._urls[asked.kind],
            headers=headers,
            content=body,
            extensions={"timeout": timeouts},
        )

    def transport(self) -> httpx.HTTPTransport:
        """For one connection."""
        import httpx

        return httpx.HTTPTransport(**self._options)

    def async_transport(self) -> httpx.AsyncHTTPTransport:
        import httpx

        return httpx.AsyncHTTPTransport(**self._options)

    def explained(self, error: Exception, call: Call, reading: Reading) -> OpenLLMError:
        """What an exception of httpx or the system means to who called."""
        import httpx

        url = self._endpoint.url
        if call.deadline.passed or isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
            return call.deadline.error(url)
        if isinstance(error, httpx.ConnectTimeout):
            return self._unreachable(f"no connection within {CONNECT_S:g} s", may_repeat=True)
        if isinstance(error, httpx.ConnectError | httpx.ProxyError | httpx.UnsupportedProtocol):
            return self._not_connected(error)
        text = str(error) or type(error).__name__
        if isinstance(error, httpx.RemoteProtocolError) and not any(
            words in text.lower() for words in _BROKE_OFF
        ):
            return BadAnswer(
                f"{self.url(call.request.kind)} does not speak HTTP as it should ({text[:200]}); "
                f"is this the URL of an open-llm-server? And {self._endpoint.right_scheme}",
                request_id=call.request_id,
            )
        text = text[:200].rstrip(".")
        return reading.lost(text if reading.begun else f"{text} ({self._endpoint.right_scheme})")

    def _not_connected(self, error: Exception) -> ConnectionFailed:
        causes = [*_causes(error)]
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            return ConnectionFailed(
                f"no safe connection to {self._endpoint.url}: {error}; give the PEM file of the CA "
                f"that signed its certificate ({VERIFY})"
            )
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return ConnectionFailed(
                f"no safe connection to {self._endpoint.url}: {error}; "
                f"{self._endpoint.right_scheme}"
            )
        unknown = any(isinstance(cause, socket.gaierror) for cause in causes)
        refused = not unknown and type(error).__name__ == "ConnectError"
        return self._unreachable(str(error) or "no connection", may_repeat=refused)

    def _unreachable(self, why: str, *, may_repeat: bool) -> ConnectionFailed:
        proxy = _proxies.proxy_of(self._endpoint)
        way = f"; does {proxy} run, and may it be used" if proxy else ""
        return ConnectionFailed(
            f"cannot reach {self._endpoint.url} ({why[:200]}){way}; {self._endpoint.how_to_reach}",
            may_repeat=may_repeat,
        )

    @cached_property
    def _urls(self) -> dict[Kind, httpx.URL]:
        import httpx

        return {kind: httpx.URL(self.url(kind)) for kind in _PATHS}

    @cached_property
    def _options(self) -> dict[str, Any]:
        import httpx

        return {
            "verify": self._tls(),
            "proxy": self._proxy(),
            "trust_env": False,
            "limits": httpx.Limits(
                max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE_S
            ),
        }

    def _tls(self) -> ssl.SSLContext:
        import httpx

        verify = self._endpoint.verify
        if self._endpoint.scheme == "http":
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nobody asks it; CAs take time to load
        try:
            if isinstance(verify, bool):
                return httpx.create_ssl_context(verify=verify)
            return ssl.create_default_context(cafile=verify)
        except OSError as error:
            raise no_authorities(verify, error) from None

    def _proxy(self) -> httpx.Proxy | None:
        import httpx

        named = _proxies.proxy_of(self._endpoint)
        if named is None:
            return None
        try:
            proxy = httpx.Proxy(named.url)
        except (ValueError, httpx.InvalidURL):
            raise _proxies.unusable(named) from None
        if proxy.url.scheme.startswith("socks") and find_spec("socksio") is None:
            raise ConnectionFailed(
                f"{named.variable} names a SOCKS proxy, which needs a package that is not here: "
                "pip install socksio; or put the server's host into NO_PROXY"
            )
        return proxy


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
