"""What calls over HTTP have in common: URLs, headers, TLS, proxies, and what a failure means.

Opens nothing by itself. httpx is imported here at the first call, and nowhere earlier.
"""

from __future__ import annotations

import json
import socket
import ssl
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ._endpoint import Endpoint
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
                "is this the URL of an open-llm-server, and is it http:// or https://?",
                request_id=call.request_id,
            )
        return reading.lost(text[:200])

    def _not_connected(self, error: Exception) -> ConnectionFailed:
        causes = [*_causes(error)]
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return ConnectionFailed(
                f"no safe connection to {self._endpoint.url}: {error}; give the file of the CA "
                "that signed its certificate as verify='ca.pem', or http:// if it has none"
            )
        unknown = any(isinstance(cause, socket.gaierror) for cause in causes)
        refused = not unknown and type(error).__name__ == "ConnectError"
        return self._unreachable(str(error) or "no connection", may_repeat=refused)

    def _unreachable(self, why: str, *, may_repeat: bool) -> ConnectionFailed:
        return ConnectionFailed(
            f"cannot reach {self._endpoint.url} ({why[:200]}); {self._endpoint.how_to_reach}",
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
        if isinstance(verify, bool):
            return httpx.create_ssl_context(verify=verify)
        try:
            return ssl.create_default_context(cafile=verify)
        except OSError as error:
            raise ConnectionFailed(
                f"verify: {verify!r} cannot be read ({error}); give a PEM file with the CA that "
                "signed the server's certificate"
            ) from None

    def _proxy(self) -> str | None:
        """The proxy that the environment names for this server, unless it is on this machine."""
        if self._endpoint.loopback:
            return None
        from urllib.request import getproxies, proxy_bypass

        proxies = getproxies()
        if not proxies or proxy_bypass(f"{self._endpoint.host}:{self._endpoint.port}"):
            return None
        named = proxies.get(self._endpoint.scheme) or proxies.get("all")
        return f"http://{named}" if named and "://" not in named else named


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
