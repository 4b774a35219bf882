"""Where the server is and how to speak to it: from `create`'s arguments and the environment.

Pure but for the environment; opens nothing. No text here may show a key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

URL_VARIABLE = "OPEN_LLM_ENDPOINT"
KEY_VARIABLE = "OPEN_LLM_API_KEY"
DEFAULT_URL = "http://127.0.0.1:5000"
PORTS = {"http": 80, "https": 443, "grpc": 5000, "grpcs": 5000}
_VISIBLE = re.compile(r"[!-~]+")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[ -~]*")


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
            f"open_llm_client.create(url) and {URL_VARIABLE} set another one"
        )


def endpoint(
    url: str | None,
    api_key: str | None,
    headers: Mapping[str, str] | None,
    verify: bool | str | os.PathLike[str],
) -> Endpoint:
    """Raises ValueError."""
    url = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    parts = _split(url)
    own = {name.lower(): _header(name, value) for name, value in (headers or {}).items()}
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
    if parts.query or parts.fragment or not _VISIBLE.fullmatch(url):
        raise ValueError(f"url: want a scheme, a host, a port, a path and no more; {example}")
    if parts.scheme.lower() in ("grpc", "grpcs") and parts.path.strip("/"):
        raise ValueError(f"url: {url!r} has a path, and gRPC has none; {example}")
    return parts


def _key(key: str) -> str:
    if not _VISIBLE.fullmatch(key):
        raise ValueError(
            f"api_key: want visible ASCII characters without spaces; look at what {KEY_VARIABLE} "
            "or api_key= has, a line end perhaps"
        )
    return key


def _header(name: str, value: str) -> str:
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ValueError(f"headers: {name!a} cannot be sent; names and values are ASCII texts")
    return value


def _verify(verify: bool | str | os.PathLike[str], scheme: str) -> bool | str:
    if verify is False and scheme == "grpcs":
        raise ValueError(
            "verify=False: gRPC checks every certificate; give verify='ca.pem' with the CA that "
            "signed the server's, or use https://"
        )
    if isinstance(verify, bool):
        return verify
    if not Path(verify).is_file():
        raise ValueError(f"verify: there is no file {os.fspath(verify)!r}; give the CA's PEM file")
    return os.fspath(verify)
