"""Bodies for the routes that answer with text, and the text of a streamed answer."""

from __future__ import annotations

from typing import Any

from asgi import Reply

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "one two three"}]}
CHAT = "/v1/chat/completions"
BODIES: dict[str, dict[str, Any]] = {
    "/chat": {"prompt": "one two three"},
    "/complete": {"prompt": "one two three"},
    CHAT: HELLO,
    "/v1/completions": {"prompt": "one two three"},
}
STREAMED = [*BODIES, "/chat-sse"]


def body(path: str, *, stream: bool) -> dict[str, Any]:
    return BODIES.get(path, BODIES["/chat"]) | ({"stream": True} if stream else {})


def texts(reply: Reply) -> str:
    found = ""
    for event in reply.events:
        if isinstance(event, dict) and "delta" in event:
            found += event["delta"]
        elif isinstance(event, dict) and event.get("choices"):
            choice = event["choices"][0]
            if isinstance(choice, dict):
                found += choice.get("text", "") + choice.get("delta", {}).get("content", "")
    return found
