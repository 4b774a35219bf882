"""Who may call what: every route of the app's own table, with and without keys, from strange
hosts and from other sites' pages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgi import App, Client, app_of, call, get, post
from ports import EchoPort
from starlette.routing import Route

from open_llm_server.api.app import hash_key
from open_llm_server.api.edge import PUBLIC

KEYS = ("first-key-123", "second-key-456")
BEARER = ("authorization", f"Bearer {KEYS[0]}")
CHAT = {"prompt": "Hello"}


def guarded(port: EchoPort | None = None, **settings: Any) -> App:
    return app_of(port or EchoPort(), api_key_hashes=tuple(map(hash_key, KEYS)), **settings)


PATHS = [
    route.path.replace("{model:path}", "echo")
    for route in app_of().routes
    if isinstance(route, Route)
]


def test_the_table_of_routes() -> None:
    assert len(PATHS) == 14
    assert set(PATHS) >= {"/", "/chat", "/metrics", "/openapi.json", "/v1/models/echo"}
    assert set(PUBLIC) == {"/", "/livez", "/readyz"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_every_route_but_three_wants_a_key(path: str, method: str) -> None:
    port = EchoPort()
    reply = await call(guarded(port), method, path, CHAT)
    if path in PUBLIC:
        assert reply.status in (200, 405)
        return
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert method == "HEAD" or reply.error["code"] == "invalid_api_key"
    assert not port.calls


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/livez/",
        "//livez",
        "/livez/../chat",
        "/./livez",
        "/LIVEZ",
        "/readyz?x",
        "/livez;x",
        "/livez#",
        "",
        "*",
        "/%2e",
        "/v1/models/../../livez",
        "/livez\x00",
        "http://localhost/livez",
    ],
)
async def test_strange_paths_need_a_key_too(path: str) -> None:
    assert (await call(guarded(), "GET", path)).status == 401
    reply = await call(guarded(), "GET", path, headers=[BEARER])
    assert reply.status == 404


@pytest.mark.parametrize("path", [path for path in PATHS if path not in PUBLIC])
async def test_a_wrong_key_is_no_key(path: str) -> None:
    for headers in (
        [("authorization", "Bearer wrong")],
        [("authorization", KEYS[0])],
        [("authorization", f"Basic {KEYS[0]}")],
        [("x-api-key", "wrong")],
        [("x-api-key", hash_key(KEYS[0]))],
        [("cookie", f"key={KEYS[0]}")],
    ):
        assert (await call(guarded(), "POST", path, CHAT, headers)).status == 401
    two = [BEARER, ("x-api-key", KEYS[1])]
    assert (await call(guarded(), "POST", path, CHAT, two)).status == 400


async def test_either_header_and_any_key_opens() -> None:
    port = EchoPort()
    app = guarded(port)
    for headers in (
        [BEARER],
        [("x-api-key", KEYS[0])],
        [("x-api-key", KEYS[1])],
        [BEARER, ("x-api-key", KEYS[0])],
    ):
        assert (await post(app, "/chat", CHAT, headers)).status == 200
    callers = [one.caller for one in port.calls]
    assert callers[0] == callers[1] == callers[3] != callers[2]
    assert not any(key in json.dumps(callers) for key in KEYS)
    assert (await get(app, "/metrics", [BEARER])).status == 200


async def test_a_refused_caller_is_not_read() -> None:
    async with Client(guarded(), "POST", "/chat", pieces=[b"x" * 10_000_000] * 3) as client:
        reply = await client.whole()
        assert reply.status == 401
        assert len(client._pieces) == 3


async def test_foreign_hosts_are_refused_on_every_route() -> None:
    for path in PATHS:
        for host in ("evil.example", "evil.example:5000", "localhost/livez", "a?b", "a#b"):
            reply = await call(app_of(), "POST", path, CHAT, host=("host", host))
            assert (reply.status, reply.error["code"]) == (403, "host_not_allowed")
            # Not even with the key: the page that got it must not use it.
            reply = await call(guarded(), "POST", path, CHAT, [BEARER], host=("host", host))
            assert reply.status == 403
    named = app_of(allowed_hosts=("llm.example",))
    reply = await call(named, "POST", "/chat", CHAT, host=("host", "llm.example"))
    assert reply.status == 200
    anywhere = app_of(host="0.0.0.0")
    for host, status in (("any.example", 403), ("10.1.2.3:5000", 200), ("server:5000", 200)):
        reply = await call(anywhere, "POST", "/chat", CHAT, host=("host", host))
        assert reply.status == status
    keyed = guarded(host="0.0.0.0")
    reply = await call(keyed, "POST", "/chat", CHAT, [BEARER], host=("host", "any.example"))
    assert reply.status == 200


async def test_other_sites_pages_are_refused() -> None:
    form = ("content-type", "application/x-www-form-urlencoded")
    for origin in ("http://evil.example", "null", "http://127.0.0.1:8080"):
        reply = await post(app_of(), "/chat", CHAT, [("origin", origin), form])
        assert (reply.status, reply.error["code"]) == (403, "host_not_allowed")
        assert "access-control-allow-origin" not in reply.headers
        preflight = await call(app_of(), "OPTIONS", "/chat", headers=[("origin", origin)])
        assert preflight.status == 403
    own = [("origin", "http://127.0.0.1:5000")]
    assert (await post(app_of(), "/chat", CHAT, own)).status == 200
    friend = app_of(allowed_origins=("https://app.example",))
    reply = await post(friend, "/chat", CHAT, [("origin", "https://app.example")])
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == "https://app.example"


async def test_a_named_sites_page_may_ask_first() -> None:
    friend = app_of(allowed_origins=("https://app.example",))
    asked = [
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type"),
    ]
    reply = await call(
        friend, "OPTIONS", "/chat", headers=[("origin", "https://app.example"), *asked]
    )
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == "https://app.example"
    evil = await call(
        friend, "OPTIONS", "/chat", headers=[("origin", "https://evil.example"), *asked]
    )
    assert evil.status == 400
    assert "access-control-allow-origin" not in evil.headers


async def test_a_websocket_is_closed() -> None:
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    await app_of()({"type": "websocket", "path": "/chat", "headers": []}, receive, send)
    assert sent == ["websocket.close"]
