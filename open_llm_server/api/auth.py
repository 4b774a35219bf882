"""Who calls: API keys, compared in constant time. Knows headers' values, not HTTP.

The same function serves every door that carries credentials, so none can be weaker.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from ..errors import AuthenticationError, InvalidField


def hash_key(key: str) -> str:
    """What the server keeps of an API key."""
    return hashlib.sha256(key.encode()).hexdigest()


def identify(
    authorization: Sequence[bytes], x_api_key: Sequence[bytes], key_hashes: Sequence[str]
) -> str:
    """The caller's id, made from the key shown; "" where no keys are configured.

    Takes every value of the `Authorization` and `X-Api-Key` headers (or gRPC metadata). Raises
    AuthenticationError, or InvalidField when two different credentials were sent: which one
    counts must not depend on who looks first.
    """
    if not key_hashes:
        return ""
    shown = {_bearer(value) for value in authorization} | {value.strip() for value in x_api_key}
    if len(shown) > 1:
        raise InvalidField(
            "two different credentials were sent; send one key, as 'Authorization: Bearer KEY' "
            "or as 'X-Api-Key: KEY'",
            param="authorization",
        )
    key = next(iter(shown), None)
    if not key:
        raise AuthenticationError(
            "this server needs an API key: send 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'"
        )
    digest = hashlib.sha256(key).hexdigest()
    found = False
    # Every hash is compared, so that the time says nothing about which one matched.
    for known in key_hashes:
        found |= hmac.compare_digest(digest, known)
    if not found:
        raise AuthenticationError("this API key is not one of this server's")
    return hashlib.sha256(b"caller:" + digest.encode()).hexdigest()[:16]


def _bearer(value: bytes) -> bytes:
    """The key in an `Authorization` value; empty when it is of another scheme."""
    scheme, _, key = value.strip().partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""
