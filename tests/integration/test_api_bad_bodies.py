"""Bodies that are too long, late, in pieces or of another type, and timeouts that are none, over
every route: always a 4xx, and the next request works."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgi import App, Client, app_of, post
from refusals import GOOD, PATHS, refused

LIMIT = 64 * 1024


@pytest.fixture
def app() -> App:
    return app_of(body_limit=LIMIT)


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_over_the_limit(app: App, path: str) -> None:
    body = json.dumps(GOOD[path] | {"zz": "x" * LIMIT}).encode()
    for headers in ([], [("content-length", str(len(body)))], [("content-length", "10")]):
        error = await refused(app, path, body, status=413, headers=headers)
        assert error["limit"] == LIMIT
    # A length alone is enough to be refused: nothing is read.
    await refused(app, path, b"{}", status=413, headers=[("content-length", str(10**12))])


async def test_a_body_at_the_limit_is_read(app: App) -> None:
    head = json.dumps({"prompt": "Hello"})[:-1] + ', "zz": "'
    body = head + "x" * (LIMIT - len(head) - 2) + '"}'
    assert len(body) == LIMIT
    assert (await post(app, "/chat", body.encode())).status == 200
    assert (await post(app, "/chat", body.encode() + b" ")).status == 413


async def test_an_endless_body_in_pieces(app: App) -> None:
    pieces = [b'{"prompt": "', *([b"x" * 1024] * 1000)]
    async with Client(app, "POST", "/chat", pieces=pieces) as client:
        reply = await client.whole()
    assert reply.status == 413


async def test_a_flood_of_tiny_pieces(app: App) -> None:
    async with Client(app, "POST", "/chat", pieces=[b""] * 70_000) as client:
        reply = await client.whole()
    assert reply.status == 413


async def test_a_body_in_pieces_is_one_body(app: App) -> None:
    pieces = [bytes([byte]) for byte in '{"prompt": "Grüße 🙂"}'.encode()]
    async with Client(app, "POST", "/chat", pieces=pieces) as client:
        reply = await client.whole()
    assert reply.json["message"] == "Grüße 🙂"


class Never(Client):
    """A client that sends half a body and stays."""

    async def _receive(self) -> dict[str, Any]:
        if self._pieces:
            return {"type": "http.request", "body": self._pieces.pop(0), "more_body": True}
        await self._gone.wait()
        return {"type": "http.disconnect"}


async def test_a_body_that_does_not_come(app: App) -> None:
    slow = app_of(body_timeout_s=0.01)
    async with Never(slow, "POST", "/chat", pieces=[b'{"pro']) as client:
        reply = await client.whole()
    assert reply.status == 408
    assert reply.error["code"] == "body_timeout"
    async with Never(app, "POST", "/chat", pieces=[b'{"pro']) as client:
        client.leave()
        await client.task
    assert client.messages.empty()


@pytest.mark.parametrize("path", PATHS)
async def test_content_types(app: App, path: str) -> None:
    for kind in (
        "application/json",
        "application/json; charset=utf-8",
        'Application/JSON;charset="UTF-8"',
        "application/x-www-form-urlencoded",
    ):
        reply = await post(app, path, GOOD[path], [("content-type", kind)])
        assert reply.status == 200, kind
    for kind in (
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "application/json; charset=latin-1",
        "application/xml",
        "application/jsonx",
        "json",
    ):
        await refused(
            app,
            path,
            GOOD[path],
            status=415,
            param="content-type",
            headers=[("content-type", kind)],
        )
    form = [("content-type", "application/x-www-form-urlencoded")]
    await refused(app, path, b"prompt=Hello", status=415, headers=form)
    two = [("content-type", "application/json"), ("content-type", "text/plain")]
    await refused(app, path, GOOD[path], param="content-type", headers=two)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "601", "soon", "", "1" * 5000, "1e999"])
async def test_timeouts_that_are_none(app: App, value: str) -> None:
    headers = [("x-request-timeout", value)]
    await refused(app, "/chat", GOOD["/chat"], param="x-request-timeout", headers=headers)
