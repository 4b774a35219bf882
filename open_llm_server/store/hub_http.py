"""One GET at a hub: who gets the token, which redirects are followed, what is worth another try.

The connection, its proxies and certificates, the token and the endpoint are huggingface_hub's, so
HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean there. Redirects are followed here,
because the token goes to the hub alone, and nothing but HTTP is followed. Knows no models or files.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin, urlsplit

from .. import __version__
from ..errors import ConfigurationError, WeightsError

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
MOST_HOPS = 10
_PORTS = {"http": 80, "https": 443}
_TOKEN = re.compile(r"[\x21-\x7e]+")
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Patience:
    """How long a hub is waited for, in seconds."""

    stall_s: float = 30.0
    """Without one byte."""
    connect_s: float = 10.0
    tries: int = 6
    """In a row, of which none brought a byte."""
    first_wait_s: float = 1.0
    """After the first; each further wait is twice as long."""
    longest_wait_s: float = 30.0
    longest_order_s: float = 120.0
    """What the hub may order by Retry-After; it is not waited for longer."""

    @classmethod
    def usual(cls) -> Patience:
        """With HF_HUB_DOWNLOAD_TIMEOUT in place of `stall_s`, if that is set."""
        from huggingface_hub import constants

        told = constants.HF_HUB_DOWNLOAD_TIMEOUT
        return cls() if told == constants.DEFAULT_DOWNLOAD_TIMEOUT else cls(stall_s=told)


class Transient(Exception):
    """Another try may succeed. `wait_s` is what the hub asked to wait."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.wait_s = reason, wait_s


class Refused(Exception):
    """An answer that another try will not change. `word` is the hub's own for it."""

    def __init__(self, status: int, word: str, host: str) -> None:
        super().__init__(f"{host} answered {status} {word}".rstrip())
        self.status, self.word, self.host = status, word, host


class Offline(Exception):
    """HF_HUB_OFFLINE forbids the network."""


class Cancelled(Exception):
    """Somebody else's work has failed, or the person has had enough."""


def endpoint() -> str:
    """The hub's address. May hold a password: see `shown`."""
    from huggingface_hub import constants

    url = str(constants.ENDPOINT).rstrip("/")
    if urlsplit(url).scheme not in _PORTS:
        raise ConfigurationError(f"HF_ENDPOINT={url!r} is not an http:// or https:// address")
    return url


def shown(url: str) -> str:
    """An address without what nobody should read: passwords, and signatures in the query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def token() -> str | None:
    """What huggingface_hub would send: HF_TOKEN, or what `hf auth login` left. Raises
    ConfigurationError for what cannot be a token, without showing it."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    value = get_token()
    if value is not None and not _TOKEN.fullmatch(value):
        raise ConfigurationError(
            "HF_TOKEN is no token (it has spaces, or characters that no token has); copy it again "
            f"from {shown(endpoint())}/settings/tokens"
        )
    return value


@contextmanager
def get(
    url: str, patience: Patience, *, start: int = 0, stop: int | None = None
) -> Iterator[httpx2.Response]:
    """Bytes from `start` to before `stop` of what lies at `url` of the hub, or behind redirects.

    Gives the response with its body unread, of status 200, 206 or 416. Raises Transient, Refused,
    Offline, and WeightsError for redirects that are not followed.
    """
    import httpx2
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    if constants.is_offline_mode():
        raise Offline
    headers = {"Accept-Encoding": "identity", "User-Agent": f"open-llm-server/{__version__}"}
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-" + ("" if stop is None else str(stop - 1))
    if _origin(url) == _origin(endpoint()) and (key := token()):
        headers["Authorization"] = f"Bearer {key}"
    timeout = httpx2.Timeout(patience.stall_s, connect=patience.connect_s)
    try:
        for _ in range(MOST_HOPS):
            with get_session().stream(
                "GET", url, headers=headers, timeout=timeout, follow_redirects=False
            ) as response:
                if not response.has_redirect_location:
                    _check(response, url)
                    yield response
                    return
                target = next_hop(url, response.headers["Location"])
            if _origin(target) != _origin(url):
                headers.pop("Authorization", None)
            url = target
    except OfflineModeIsEnabled as error:
        raise Offline from error
    except (httpx2.TransportError, httpx2.StreamError) as error:
        raise Transient(_reason(error, url)) from error
    except httpx2.InvalidURL as error:
        raise WeightsError(f"{host(url)} sends on to what is no address") from error
    raise WeightsError(
        f"{host(url)} redirects without end; check HF_ENDPOINT ({shown(endpoint())}) and proxies"
    )


def read(response: httpx2.Response, most: int) -> bytes:
    """A whole body. Raises WeightsError if it is longer than `most` bytes."""
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > most:
            raise WeightsError(
                f"{host(str(response.url))} answers with more than {most} bytes where few are "
                f"due; check HF_ENDPOINT ({shown(endpoint())})"
            )
    return bytes(body)


def next_hop(url: str, location: str) -> str:
    """Where a redirect leads. Raises WeightsError if it is not to be followed."""
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
        _origin(target)
    except ValueError as error:
        raise WeightsError(f"{host(url)} sends on to what is no address") from error
    if scheme not in _PORTS:
        raise WeightsError(
            f"{host(url)} sends on to {scheme or 'no'}:, which is not followed; check HF_ENDPOINT "
            f"({shown(endpoint())}) and proxies"
        )
    if scheme == "http" and urlsplit(url).scheme == "https":
        raise WeightsError(
            f"{host(url)} sends on from https to {shown(target)}, which anybody on the way could "
            f"read; check HF_ENDPOINT ({shown(endpoint())}) and proxies"
        )
    return target


def insist(
    attempt: Callable[[], T],
    patience: Patience,
    *,
    done: Callable[[], int] = lambda: 0,
    cancelled: threading.Event | None = None,
) -> T:
    """The outcome of `attempt`, tried again as long as it is Transient and patience lasts.

    `done` says how far it is: patience begins anew when a try got further. Raises Transient when
    it gives up, Cancelled, and whatever else `attempt` raises.
    """
    cancelled, failures, reached = cancelled or threading.Event(), 0, done()
    while True:
        try:
            return attempt()
        except Transient as error:
            failures = 1 if done() > reached else failures + 1
            reached = max(reached, done())
            wait_s = min(patience.first_wait_s * 2 ** (failures - 1), patience.longest_wait_s)
            if failures >= patience.tries or (error.wait_s or 0) > patience.longest_order_s:
                raise
            wait_s = max(wait_s, error.wait_s or 0)
        if cancelled.wait(wait_s):
            raise Cancelled


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


def _check(response: httpx2.Response, url: str) -> None:
    status = response.status_code
    if status in (200, 206, 416):
        return
    # The hub sends on with a signature that runs out; asked again, it gives a new one.
    signed = _origin(url) != _origin(endpoint())
    if status in _PASSING or status >= 500 or (signed and status in (401, 403)):
        raise Transient(f"{host(url)} answered {status}", _ordered_wait(response))
    raise Refused(status, response.headers.get("X-Error-Code", ""), host(url))


def _ordered_wait(response: httpx2.Response) -> float | None:
    """Seconds that the answer asks to wait, if it does."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        pass
    limit = re.search(r";\s*r=0\s*;\s*t=(\d{1,9})\b", response.headers.get("RateLimit", ""))
    return float(limit[1]) if limit and response.status_code == 429 else None


def _reason(error: Exception, url: str) -> str:
    """For people, without addresses."""
    import httpx2

    if isinstance(error, httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return f"{host(url)} does not take connections"
    if isinstance(error, httpx2.TimeoutException):
        return f"{host(url)} fell silent"
    if isinstance(error, httpx2.ConnectError):
        hint = " (set SSL_CERT_FILE to your own certificates)" if "CERT" in str(error) else ""
        return f"{host(url)} cannot be reached: {error}{hint}"
    if isinstance(error, httpx2.ProxyError):
        return f"the proxy on the way to {host(url)} failed"
    return f"{host(url)} broke off"
