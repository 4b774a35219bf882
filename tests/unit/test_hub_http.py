"""Redirects that are followed, addresses as people see them, and when another try is made."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_llm_server.errors import ConfigurationError, WeightsError
from open_llm_server.store import hub_http
from open_llm_server.store.hub_http import Cancelled, Patience, Transient, insist, next_hop

HASTY = Patience(tries=3, first_wait_s=0, longest_wait_s=0, longest_order_s=1)
FROM = "https://hub.example/org/name/resolve/main/model.gguf"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/other", "https://hub.example/other"),
        ("https://cdn.example/x?signature=y", "https://cdn.example/x?signature=y"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("x", "https://hub.example/org/name/resolve/main/x"),
    ],
)
def test_redirects_to_http_are_followed(location: str, target: str) -> None:
    assert next_hop(FROM, location) == target


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://cdn.example/x",
        "data:text/plain,x",
        "gopher://cdn.example",
        "http://hub.example/x",
        "http://cdn.example/x",
        "https://cdn.example:port/x",
        "https://[cdn",
    ],
)
def test_redirects_elsewhere_are_refused(location: str) -> None:
    with pytest.raises(WeightsError, match=r"hub\.example sends on"):
        next_hop(FROM, location)


@given(st.text(max_size=40))
def test_no_redirect_leaves_https(location: str) -> None:
    with suppress(WeightsError):
        assert next_hop(FROM, location).startswith("https://")


def test_addresses_are_shown_without_secrets() -> None:
    url = "https://user:secret@hub.example:8443/x?signature=secret"
    assert hub_http.shown(url) == "https://hub.example:8443/x"
    assert hub_http.host(url) == "hub.example:8443"


def test_an_endpoint_is_an_http_address(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "file:///models")
    with pytest.raises(ConfigurationError, match="HF_ENDPOINT"):
        hub_http.endpoint()


@pytest.mark.parametrize(
    "address",
    [
        "ftp://me:s3cret@hub.example",
        "me:s3cret@hub.example",
        "https//me:s3cret@hub.example/x",
        "http://me:s3cret@[hub.example",
        "http://me:s3cret@hub.example:port",
        "http://me:s3cret@/hub.example?token=s3cret#s3cret",
        "//me:s3cret@@hub.example",
        "http://me:s3cret@",
    ],
)
def test_an_endpoint_that_is_none_is_named_without_its_password(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    with pytest.raises(ConfigurationError, match="HF_ENDPOINT") as caught:
        hub_http.endpoint()
    assert "s3cret" not in str(caught.value)
    assert ("hub.example" in str(caught.value)) == ("hub.example" in address)


@pytest.mark.parametrize("token", ["hf_ü", "two words", "a\x01b"])
def test_a_token_that_is_none_is_refused_unseen(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigurationError, match="HF_TOKEN is no token") as caught:
        hub_http.token()
    assert token not in str(caught.value)


def test_the_library_may_keep_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert hub_http.token() == "hf_secret"
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    assert hub_http.token() is None


def test_a_persons_own_timeout_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", constants.DEFAULT_DOWNLOAD_TIMEOUT)
    assert Patience.usual() == Patience()
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 77)
    assert Patience.usual().stall_s == 77
    assert Patience.usual().slow_s == Patience().slow_s
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 770)
    assert Patience.usual().slow_s == 770


class Tries:
    """Attempts that fail as told, and may get further meanwhile."""

    def __init__(self, steps: list[int], wait_s: float | None = None) -> None:
        self.steps, self.wait_s, self.count, self.done = steps, wait_s, 0, 0

    def __call__(self) -> str:
        self.count += 1
        if not self.steps:
            return "done"
        self.done += self.steps.pop(0)
        raise Transient("broke off", self.wait_s)


def test_tries_end_when_none_gets_further() -> None:
    tries = Tries([0] * 10)
    with pytest.raises(Transient):
        insist(tries, HASTY)
    assert tries.count == HASTY.tries


def test_tries_go_on_while_they_get_further() -> None:
    tries = Tries([1, 0] * 20)
    assert insist(tries, HASTY, done=lambda: tries.done) == "done"
    assert tries.count == 41


def test_getting_further_too_slowly_is_no_progress() -> None:
    tries, patience = Tries([1] * 40), replace(HASTY, slow_s=0, least_rate=10**12)
    with pytest.raises(Transient):
        insist(tries, patience, done=lambda: tries.done)
    assert tries.count == HASTY.tries
    tries = Tries([1] * 40)
    quick = replace(patience, least_rate=0)
    assert insist(tries, quick, done=lambda: tries.done) == "done"


def test_going_back_and_forth_is_no_progress() -> None:
    tries = Tries([5, -5, 5, -5, 5, -5, 5])
    with pytest.raises(Transient):
        insist(tries, HASTY, done=lambda: tries.done)


def test_the_hub_may_order_a_wait_but_not_a_long_one() -> None:
    assert insist(Tries([0], wait_s=0.01), HASTY) == "done"
    tries = Tries([0], wait_s=2)
    with pytest.raises(Transient):
        insist(tries, HASTY)
    assert tries.count == 1


def test_a_wait_ends_when_it_is_cancelled() -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        insist(Tries([0]), Patience(first_wait_s=600, longest_wait_s=600), cancelled=cancelled)
