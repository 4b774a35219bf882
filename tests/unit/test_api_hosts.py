"""The guard against foreign pages: DNS rebinding by Host, cross-site calls by Origin."""

from __future__ import annotations

import pytest

from open_llm_server.api.hosts import HostGuard
from open_llm_server.errors import HostNotAllowed


def check(
    host: str | list[str] | None,
    origin: str | None = None,
    *,
    bound: str = "127.0.0.1",
    hosts: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
    site: str = "",
    safe: bool = False,
    has_keys: bool = False,
) -> None:
    guard = HostGuard(bound, allowed_hosts=hosts, allowed_origins=origins, has_keys=has_keys)
    named = [] if host is None else [host] if isinstance(host, str) else host
    guard.check(named, [] if origin is None else [origin], site=site, safe=safe)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:5000",
        "LocalHost:5000",
        "127.0.0.1",
        "127.0.0.1:80",
        "127.8.8.8:5000",
        "[::1]",
        "[::1]:5000",
        None,
        ["localhost", "localhost"],
    ],
)
def test_own_names_are_answered(host: str | None) -> None:
    check(host)


FOREIGN = [
    "evil.example",
    "evil.example:5000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example/localhost",
    "localhost/../evil",
    "localhost?x",
    "localhost#x",
    "user@localhost",
    "local host",
    "localhost:port",
    "localhost:",
    "",
    "[::1",
    "192.168.1.4",
    "0.0.0.0",
    "lоcalhost",
    ["localhost", "evil.example"],
]


@pytest.mark.parametrize("host", FOREIGN)
def test_foreign_names_are_not(host: str | list[str]) -> None:
    with pytest.raises(HostNotAllowed):
        check(host)


def test_the_list_adds_names() -> None:
    check("llm.example", hosts=("llm.example",))
    check("llm.example:8443", hosts=("LLM.example",))
    check("llm.example:8443", hosts=("llm.example:8443",))
    check("anything.example", hosts=("*",))
    with pytest.raises(HostNotAllowed):
        check("other.example", hosts=("llm.example",))


@pytest.mark.parametrize(
    "host",
    [
        "10.1.2.3:5000",
        "[fd00::1]:5000",
        "server",
        "box.local",
        "host.docker.internal",
        "a.localhost",
    ],
)
def test_a_public_address_without_keys_answers_to_names_that_nobody_can_buy(host: str) -> None:
    check(host, bound="0.0.0.0")
    with pytest.raises(HostNotAllowed):
        check(f"{host.partition(':')[0].strip('[')}.example", bound="0.0.0.0")


def test_a_public_address_with_keys_answers_to_any_name_unless_there_is_a_list() -> None:
    check("llm.example", bound="0.0.0.0", has_keys=True)
    check("llm.example", bound="0.0.0.0", hosts=("*",))
    with pytest.raises(HostNotAllowed):
        check("other.example", bound="0.0.0.0", hosts=("llm.example",))
    # Even there, a header that is no host name is refused.
    with pytest.raises(HostNotAllowed):
        check("a/b", bound="0.0.0.0", has_keys=True)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:5000", "http://localhost:5000"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("localhost", "https://localhost:443"),
    ],
)
def test_the_servers_own_pages_may_call(host: str, origin: str) -> None:
    check(host, origin)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "http://localhost:8080",
        "http://localhost.evil.example:5000",
        "file://",
        "chrome-extension://localhost:5000",
        "localhost:5000",
        "",
    ],
)
def test_pages_from_elsewhere_may_not(origin: str) -> None:
    with pytest.raises(HostNotAllowed):
        check("localhost:5000", origin)
    check("localhost:5000", origin, origins=("*",))


def test_named_origins_may_call() -> None:
    check("localhost:5000", "https://app.example", origins=("https://app.example/",))
    with pytest.raises(HostNotAllowed):
        check("localhost:5000", "http://app.example", origins=("https://app.example",))


def test_a_cross_site_request_without_origin_is_refused_unless_it_only_reads() -> None:
    check("localhost", site="cross-site", safe=True)
    check("localhost", site="same-origin")
    check("localhost", site="none")
    with pytest.raises(HostNotAllowed):
        check("localhost", site="cross-site")
