"""A good body for every route that generates, and the check of a refusal."""

from __future__ import annotations

from typing import Any

from asgi import App, post

GOOD: dict[str, dict[str, Any]] = {
    "/chat": {"prompt": "Hello"},
    "/chat-sse": {"prompt": "Hello"},
    "/complete": {"prompt": "Hello"},
    "/embed": {"input": "Hello"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/embeddings": {"input": "Hello"},
}
PATHS = list(GOOD)


async def refused(
    app: App,
    path: str,
    body: Any,
    *,
    status: int = 400,
    param: str | None = None,
    headers: list[tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """Asserts the refusal, its shape, and that the next request is served."""
    reply = await post(app, path, body, headers or [])
    assert reply.status == status, reply.text
    error = reply.error
    assert set(error) >= {"message", "type", "param", "code", "request_id"}
    assert error["param"] == param
    assert error["message"]
    assert len(reply.body) < 2000
    assert error["request_id"] == reply.headers["x-request-id"]
    assert (await post(app, path, GOOD[path])).status == 200
    return error
