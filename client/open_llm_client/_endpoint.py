"""Where the server is and how to speak to it: from `create`'s arguments and the environment.

Pure but for the environment; opens nothing. No text here may show a key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from .errors import ConnectionFailed

URL_VARIABLE = "OPEN_LLM_ENDPOINT"
KEY_VARIABLE = "OPEN_LLM_API_KEY"
CA_VARIABLE = "SSL_CERT_FILE"
VERIFY = f"verify='ca.pem', or the environment's {CA_VARIABLE}"
DEFAULT_URL = "http://127.0.0.1:5000"
PORTS = {"http": 80, "https": 443, "grpc": 5000, "grpcs": 5000}
_VISIBLE = re.compile(r"[!-~]+")
# Narrower than HTTP has them, so that each of them can go over gRPC too.
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_VALUE = re.compile(r"([!-~]([ -~]*[!-~])?)?")
_OWN = {
    *("accept-encoding", "connection", "content-length", "content-type", "expect", "host"),
    *("keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
}
"""Headers that are the client's own to send."""
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")
_FOUR_NUMBERS = re.compile(r"\d+(\.\d+){3}")
_LONGEST_URL = 2000


@dataclass(frozen=True)
class Endpoint:
    """A server's address and what every call there carries."""

    url: str
    """Without a slash at its end."""
    scheme: str
    host: str
    """Without brackets."""
    port: int
    headers: Mapping[str, str] = field(repr=False)
    """In lower case; the key is among them."""
    verify: bool | str = True
    """The certificate: checked, not checked, or checked against the CAs of this file."""

    @property
    def loopback(self) -> bool:
        return self.host == "localhost" or self.host == "::1" or self.host.startswith("127.")

    @property
    def how_to_reach(self) -> str:
        """The way out of an error that says that nobody answers."""
        return (
            "is the server running (open-llm-server start tiny), and is this its URL? "
            f"create(url) and {URL_VARIABLE} set another one"
        )

    @property
    def right_scheme(self) -> str:
        """The way out where somebody answers, and speaks something else."""
        return (
            f"is {self.scheme}:// right for this port (of http://, https://, grpc://, grpcs://)? "
            "The server prints its URLs as it starts"
        )


def endpoint(
    url: str | None,
    api_key: str | None,
    headers: Mapping[str, str] | None,
    verify: bool | str | os.PathLike[str],
) -> Endpoint:
    """Raises TypeError or ValueError, which name the argument."""
    _want(url, str, "url", "a text")
    _want(api_key, str, "api_key", "a text")
    _want(headers, Mapping, "headers", "a dict of texts")
    url = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    parts = _split(url)
    own = {str(name).lower(): _header(name, value) for name, value in (headers or {}).items()}
    key = api_key if api_key is not None else os.environ.get(KEY_VARIABLE)
    if key:
        own.setdefault("authorization", f"Bearer {_key(key)}")
    return Endpoint(
        url=url.rstrip("/"),
        scheme=parts.scheme.lower(),
        host=parts.hostname or "",
        port=parts.port or PORTS[parts.scheme.lower()],
        headers=own,
        verify=_verify(verify, parts.scheme.lower()),
    )


def no_authorities(verify: bool | str, error: OSError) -> ConnectionFailed:
    """Of a file of CAs that was there earlier, or that the environment names."""
    where = f"verify={verify!r}" if isinstance(verify, str) else CA_VARIABLE
    file = verify if isinstance(verify, str) else os.environ.get(CA_VARIABLE)
    return ConnectionFailed(
        f"{where}: {file} cannot be read ({error}); name a PEM file with the CA that signed the "
        "server's certificate there"
    )


def _split(url: str) -> SplitResult:
    example = f"give one such as {DEFAULT_URL} or grpc://127.0.0.1:5000"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"url: {error}; {example}") from None
    if parts.username is not None or parts.password is not None:
        # Whatever stands there is not repeated here.
        raise ValueError("url: it must not carry a name or a password; give the key as api_key=")
    if parts.scheme.lower() not in PORTS or not parts.hostname or port == 0:
        raise ValueError(f"url: {url!r} is none this client knows; {example}")
    if parts.query or parts.fragment or not _VISIBLE.fullmatch(url) or len(url) > _LONGEST_URL:
        raise ValueError(f"url: want a scheme, a host, a port, a path and no more; {example}")
    if parts.scheme.lower() in ("grpc", "grpcs") and parts.path.strip("/"):
        raise ValueError(f"url: {url!r} has a path, and gRPC has none; {example}")
    if not _is_host(parts.hostname):
        raise ValueError(f"url: {parts.hostname[:80]!r} is no name of a host; {example}")
    return parts


def _is_host(host: str) -> bool:
    """Whether this can be the name or the address of a machine."""
    if ":" in host or _FOUR_NUMBERS.fullmatch(host):
        from ipaddress import ip_address

        try:
            return bool(ip_address(host))
        except ValueError:
            return False
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)


def _want(value: Any, kind: type, name: str, what: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name}: want {what} or None, not {type(value).__name__}")


def _key(key: str) -> str:
    if not _VISIBLE.fullmatch(key):
        raise ValueError(
            f"api_key: want visible ASCII characters without spaces; look at what {KEY_VARIABLE} "
            "or api_key= has, a line end perhaps"
        )
    return key


def _header(name: Any, value: Any) -> str:
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"headers: want texts, which {name!a} or its value is not")
    if not _NAME.fullmatch(name) or name.lower().endswith("-bin"):
        raise ValueError(
            f"headers: {name!a} is no name that can be sent; want ASCII letters, digits or . _ - "
            "and not -bin at the end"
        )
    if name.lower() in _OWN or name.lower().startswith("grpc-"):
        raise ValueError(f"headers: {name!a} is for the client itself to send; leave it out")
    if not _VALUE.fullmatch(value):
        raise ValueError(
            f"headers: the value of {name!a} cannot be sent; want visible ASCII characters, and "
            "spaces only between them"
        )
    return value


def _verify(verify: bool | str | os.PathLike[str], scheme: str) -> bool | str:
    if verify is False and scheme == "grpcs":
        raise ValueError(
            "verify=False: gRPC checks every certificate; give verify='ca.pem' with the CA that "
            "signed the server's, or use https://"
        )
    if isinstance(verify, bool):
        return verify
    if not isinstance(verify, str | os.PathLike):
        raise TypeError(f"verify: want True, False or a file, not {type(verify).__name__}")
    if not Path(verify).is_file():
        raise ValueError(f"verify: there is no file {os.fspath(verify)!r}; give the CA's PEM file")
    return os.fspath(verify)
