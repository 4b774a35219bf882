"""Reading a request's body: the declared type, the size limit, the time limit.

Yields bytes. What they mean is for `wire` and the formats.
"""

from __future__ import annotations

from email.message import Message as Headers

from ..errors import BodyTimeout, BodyTooLarge, InvalidField, UnsupportedMediaType
from .exchange import ClientGone, Exchange, in_time

MAX_CHUNKS = 65_536
"""A body in more pieces than this is an attack on the reader, not an upload."""
_CURL = "application/x-www-form-urlencoded"


async def read_body(exchange: Exchange, *, limit: int, timeout_s: float) -> bytes:
    """The whole body. Raises BodyTooLarge, BodyTimeout, UnsupportedMediaType, ClientGone."""
    kind = _declared_type(exchange)
    length = exchange.header(b"content-length")
    if length is not None and length.isascii() and length.isdigit() and int(length[:20]) > limit:
        raise _too_large(limit)
    late = BodyTimeout(f"the request's body did not arrive within {timeout_s:g} s; send it again")
    body: bytes = await in_time(_collect(exchange, limit), timeout_s, late)
    if kind == _CURL and not body.lstrip().startswith(b"{"):
        raise UnsupportedMediaType(
            "forms are not read here; send JSON with 'Content-Type: application/json'"
        )
    return body


async def _collect(exchange: Exchange, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await exchange.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        # Counted while reading: a length header may lie, and a chunked body has none.
        if size > limit or len(chunks) >= MAX_CHUNKS:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the request's body is over this server's limit of {limit} bytes; send less, or start "
        "the server with a larger --body-limit",
        limit=limit,
    )


def _declared_type(exchange: Exchange) -> str:
    """The body's media type, "" where none is declared.

    `curl -d` declares a form unless told otherwise, and typing a header is what a first try
    should not need; so that type passes if the body turns out to be a JSON object. Browsers can
    send it across sites without asking first, but they say so: `hosts.HostGuard` stops those.
    """
    declared = exchange.headers(b"content-type")
    if not declared:
        return ""
    if len(set(declared)) > 1:
        raise InvalidField("two different Content-Type headers were sent", param="content-type")
    headers = Headers()
    headers["content-type"] = declared[0].decode("latin-1")
    kind = headers.get_content_type()
    charset = str(headers.get_param("charset") or "utf-8").lower()
    if kind not in ("application/json", _CURL) or charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(
            "bodies are JSON in UTF-8; send 'Content-Type: application/json'",
            param="content-type",
        )
    return kind
