"""When a call is tried again, and when it is not."""

from __future__ import annotations

import socket
import threading
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from hostile_servers import (
    CHAT,
    STREAM,
    WAYS,
    Peer,
    always,
    ask,
    chunked,
    events,
    http,
    streamed,
    talking_to,
)
from open_llm_client import (
    ConnectionLost,
    OpenLLMError,
    QueueFull,
    create,
)

BODY = {"error": {"message": "full", "code": "queue_full", "type": "rate_limit_error"}}
AGAIN = {"x_should_retry": "true", "retry_after": "1", "retry_after_ms": "10"}
pytestmark = pytest.mark.parametrize("way", WAYS)


def refusing(times: int, refusal: bytes, answer: bytes) -> Any:
    left = iter(range(times))

    def behave(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(answer if next(left, None) is None else refusal)

    return behave


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_that_says_when_to_come_again(way: str, status: int) -> None:
    refusal = http(BODY, status=status, **AGAIN)
    with talking_to(refusing(2, refusal, http(CHAT)), retries=2) as (_, client):
        assert str(ask(way, client, "chat")) == "Hello you"
    with talking_to(refusing(2, refusal, chunked(events(*STREAM))), retries=2) as (_, client):
        assert streamed(way, client, "chat")[1].message == "Hello you"
    with talking_to(refusing(2, refusal, http(CHAT)), retries=1) as (_, client):
        with pytest.raises(QueueFull) as raised:
            ask(way, client, "chat")
        assert raised.value.retry_after == 0.01 and raised.value.may_repeat
    with talking_to(refusing(1, refusal, http(CHAT)), retries=0) as (_, client):
        with pytest.raises(QueueFull):
            ask(way, client, "chat")


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {**AGAIN, "x_should_retry": "false"}),
        (503, {"retry_after": "0"}),
        (503, {"x_should_retry": "true"}),
        (500, AGAIN),
        (400, AGAIN),
        (504, AGAIN),
    ],
)
def test_other_refusals_are_final(way: str, status: int, headers: dict[str, str]) -> None:
    seen: list[bytes] = []

    def behave(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            seen.append(request)
            peer.send(http({"error": {"message": "no"}}, status=status, **headers))

    with talking_to(behave, retries=5) as (_, client):
        with pytest.raises(OpenLLMError, match="no"):
            ask(way, client, "chat")
    assert len(seen) == 1


LATER = format_datetime(datetime.now(timezone.utc) + timedelta(days=2), usegmt=True)


@pytest.mark.parametrize(
    ("value", "given"),
    [
        ("-5", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("\x0b", None),
        ("Fri, 99 Foo 2026 25:61:61 GMT", None),
        ("99999999999", 99999999999.0),
        ("1e12", 1e12),
        (LATER, "date"),
    ],
)
def test_odd_waiting_times_are_not_waited_for(way: str, value: str, given: Any) -> None:
    refusal = http(BODY, status=429, x_should_retry="true", retry_after=value)
    with talking_to(always(refusal), retries=3) as (_, client):
        with pytest.raises(OpenLLMError) as raised:
            ask(way, client, "chat", timeout=30)
    wait_s = raised.value.retry_after
    if given == "date":
        assert wait_s and 100_000 < wait_s < 200_000
    else:
        assert wait_s == given


def test_a_past_date_is_now(way: str) -> None:
    past = "Wed, 21 Oct 2015 07:28:00 GMT"
    refusal = http(BODY, status=503, x_should_retry="true", retry_after=past)
    with talking_to(refusing(1, refusal, http(CHAT)), retries=1) as (_, client):
        assert ask(way, client, "chat")


def test_a_wait_that_does_not_fit_is_not_begun(way: str) -> None:
    refusal = http(BODY, status=503, x_should_retry="true", retry_after="20")
    with talking_to(always(refusal), retries=3) as (_, client):
        with pytest.raises(QueueFull, match="full") as raised:
            ask(way, client, "chat", timeout=10)
        assert raised.value.retry_after == 20


def test_what_was_sent_is_never_sent_twice(way: str) -> None:
    seen: list[bytes | None] = []

    def behave(peer: Peer) -> None:
        seen.append(peer.request())

    with talking_to(behave, retries=5) as (_, client):
        with pytest.raises(ConnectionLost):
            ask(way, client, "chat")
    assert len(seen) == 1


def test_a_server_that_comes_up_meanwhile(way: str) -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))

        def serve() -> None:
            sock.listen()
            peer, _ = sock.accept()
            with peer:
                always(http(CHAT))(Peer(peer))

        thread = threading.Timer(0.1, serve)
        with create(f"http://127.0.0.1:{sock.getsockname()[1]}", retries=8) as client:
            thread.start()
            assert str(ask(way, client, "chat")) == "Hello you"
        thread.join()


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "RequestError"),
        (401, "AuthenticationError"),
        (403, "RequestError"),
        (404, "RouteNotFound"),
        (405, "MethodNotAllowed"),
        (408, "BodyTimeout"),
        (413, "BodyTooLarge"),
        (415, "UnsupportedMediaType"),
        (429, "QueueFull"),
        (500, "OpenLLMError"),
        (503, "Unavailable"),
        (504, "DeadlineExceeded"),
    ],
)
def test_codes_of_newer_servers_become_the_class_of_the_status(
    way: str, status: int, name: str
) -> None:
    body = {"error": {"message": "why", "code": "brand_new", "param": "top_k", "needed": 3}}
    with talking_to(always(http(body, status=status))) as (_, client):
        with pytest.raises(OpenLLMError, match="why") as raised:
            ask(way, client, "chat")
    error = raised.value
    assert type(error).__name__ == name and error.code == "brand_new"
    assert error.status == status and error.param == "top_k" and error.extra == {"needed": 3}


@pytest.mark.parametrize("status", [401, 404, 413, 429, 503, 504])
def test_pages_of_proxies_become_the_class_of_the_status(way: str, status: int) -> None:
    with talking_to(always(http(b"<html>", status=status, kind="text/html"))) as (server, client):
        with pytest.raises(OpenLLMError, match=f"{server.url}.*text/html") as raised:
            ask(way, client, "chat")
    assert raised.value.status == status
