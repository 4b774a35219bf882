"""Keys: who gets in, who does not, and that callers are told apart without their keys."""

from __future__ import annotations

import hashlib

import pytest

from open_llm_server.api.auth import hash_key, identify
from open_llm_server.errors import AuthenticationError, InvalidField

KEYS = [hash_key("first-key"), hash_key("zweiter-schlüssel")]


def test_without_keys_everyone_is_the_same_caller() -> None:
    assert identify([b"Bearer anything"], [b"else"], []) == ""


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        ([b"Bearer first-key"], []),
        ([b"bearer   first-key "], []),
        ([b"BEARER first-key"], []),
        ([], [b"first-key"]),
        ([], [b" first-key "]),
        ([b"Bearer first-key"], [b"first-key"]),
        ([b"Bearer first-key", b"Bearer first-key"], []),
        ([], ["zweiter-schlüssel".encode()]),
    ],
)
def test_a_known_key_gets_in(authorization: list[bytes], x_api_key: list[bytes]) -> None:
    assert identify(authorization, x_api_key, KEYS)


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        ([], []),
        ([b""], []),
        ([b"Bearer"], []),
        ([b"Bearer "], []),
        ([b"first-key"], []),
        ([b"Basic first-key"], []),
        ([b"Bearer first-ke"], []),
        ([b"Bearer first-key-"], []),
        ([b"Bearer FIRST-KEY"], []),
        ([], [b""]),
        ([], [KEYS[0].encode()]),
        ([], [b"\xff\xfe"]),
        ([b"Bearer " + b"a" * 100_000], []),
    ],
)
def test_anything_else_does_not(authorization: list[bytes], x_api_key: list[bytes]) -> None:
    with pytest.raises(AuthenticationError, match="key"):
        identify(authorization, x_api_key, KEYS)


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        ([b"Bearer first-key"], [b"other"]),
        ([b"Bearer other"], [b"first-key"]),
        ([b"Bearer first-key", b"Bearer other"], []),
        ([b"Basic abc"], [b"first-key"]),
        ([], [b"first-key", b"zweiter"]),
    ],
)
def test_two_credentials_are_refused(authorization: list[bytes], x_api_key: list[bytes]) -> None:
    with pytest.raises(InvalidField, match="two different"):
        identify(authorization, x_api_key, KEYS)


def test_the_caller_id_is_no_key_and_no_stored_hash() -> None:
    first = identify([b"Bearer first-key"], [], KEYS)
    again = identify([], [b"first-key"], KEYS)
    other = identify([], ["zweiter-schlüssel".encode()], KEYS)
    assert first == again != other
    assert "first-key" not in first
    assert first not in hashlib.sha256(b"first-key").hexdigest()
