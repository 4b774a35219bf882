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
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin, urlsplit

from .. import __version__
from ..errors import ConfigurationError, WeightsError
from . import hub_work

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
    slow_s: float = 120.0
    """With fewer than `least_rate` bytes a second; also for the head of an answer."""
    least_rate: int = 1024
    connect_s: float = 10.0
    tries: int = 6
    """In a row, of which none brought a byte, or few for the time they took."""
    first_wait_s: float = 1.0
    """After the first; each further wait is twice as long."""
    longest_wait_s: float = 30.0
    longest_order_s: float = 120.0
    """What the hub may order by Retry-After; it is not waited for longer."""

    @classmethod
    def usual(cls) -> Patience:
        """With HF_HUB_DOWNLOAD_TIMEOUT in place of `stall_s`, if that is set; `slow_s` is no
        shorter."""
        from huggingface_hub import constants

        told = constants.HF_HUB_DOWNLOAD_TIMEOUT
        if told == constants.DEFAULT_DOWNLOAD_TIMEOUT:
            return cls()
        return cls(stall_s=told, slow_s=max(cls.slow_s, told))


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
    """The hub's address. May hold a password: see `shown`. Raises ConfigurationError."""
    from huggingface_hub import constants

    url = str(constants.ENDPOINT).rstrip("/")
    try:
        scheme, name, _ = _origin(url)
    except ValueError:
        scheme = name = ""
    if scheme not in _PORTS or not name:
        # Not by `shown`: what is no address has its password anywhere before the host.
        rest = re.split(r"[?#]", url.rpartition("@")[2])[0]
        raise ConfigurationError(
            f"HF_ENDPOINT ({rest!r}, without name and password) is not an http:// or https:// "
            "address; set it to one, or unset it"
        )
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

    Gives the response with its body unread (see `pieces`), of status 200, 206 or 416. Raises
    Transient, Refused, Offline, and WeightsError for redirects that are not followed.
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
            session = get_session()
            request = session.build_request("GET", url, headers=headers, timeout=timeout)
            with closing(_head(session, request, patience)) as response:
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


def _head(session: httpx2.Client, request: httpx2.Request, patience: Patience) -> httpx2.Response:
    """The response, of which only the head was read. Each byte of it may come in time, and the
    whole of it never: that is Transient."""
    limit_s = max(patience.slow_s, patience.connect_s + patience.stall_s)
    send = partial(session.send, request, stream=True, follow_redirects=False)
    try:
        return hub_work.within(send, limit_s, late=lambda response: response.close())
    except hub_work.Late:
        raise Transient(f"{host(str(request.url))} does not come to an answer") from None


def pieces(response: httpx2.Response, patience: Patience) -> Iterator[bytes]:
    """The body as it comes. Raises Transient if that is too slow."""
    raw, waited_s, come = response.iter_raw(), 0.0, 0
    while True:
        asked_at = time.monotonic()
        piece = next(raw, None)
        if piece is None:
            return
        # What is done with a piece is not the hub's time.
        waited_s += time.monotonic() - asked_at
        come += len(piece)
        yield piece
        if waited_s >= patience.slow_s:
            if come < patience.least_rate * waited_s:
                raise Transient(
                    f"{host(str(response.url))} sends less than {patience.least_rate} bytes a "
                    "second"
                )
            waited_s, come = 0.0, 0


def read(response: httpx2.Response, most: int, patience: Patience) -> bytes:
    """A whole body. Raises WeightsError if it is longer than `most` bytes, Transient if it comes
    too slowly."""
    body = bytearray()
    for piece in pieces(response, patience):
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
    again: Callable[[], object] = lambda: None,
    cancelled: threading.Event | None = None,
) -> T:
    """The outcome of `attempt`, tried again as long as it is Transient and patience lasts.

    `done` says how far it is, in bytes: patience begins anew when a try got further, unless all
    tries together were too slow. `again` is called before each further try. Raises Transient when
    it gives up, Cancelled, and whatever else `attempt` raises.
    """
    cancelled, failures, reached = cancelled or threading.Event(), 0, done()
    pace = _Pace(patience, reached)
    while True:
        try:
            return attempt()
        except Transient as error:
            further = pace.kept(done()) and done() > reached
            failures = 1 if further else failures + 1
            reached = max(reached, done())
            wait_s = min(patience.first_wait_s * 2 ** (failures - 1), patience.longest_wait_s)
            if failures >= patience.tries or (error.wait_s or 0) > patience.longest_order_s:
                raise
            wait_s = max(wait_s, error.wait_s or 0)
        if cancelled.wait(wait_s):
            raise Cancelled
        again()


class _Pace:
    """Whether tries that get further do so fast enough: from one that was, to the next that is."""

    def __init__(self, patience: Patience, done: int) -> None:
        self._patience, self._since, self._known = patience, time.monotonic(), done

    def kept(self, done: int) -> bool:
        now = time.monotonic()
        spent_s = now - self._since
        if spent_s < self._patience.slow_s:
            return True
        if done - self._known < self._patience.least_rate * spent_s:
            return False
        self._since, self._known = now, done
        return True


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
