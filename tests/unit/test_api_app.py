"""The app as a whole: what it does before the first request, and how it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from asgi import app_of, get, post
from ports import EchoPort

from open_llm_server.errors import EngineError, OpenLLMError, QueueFull
from open_llm_server.frames import Failure

STARTS = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from asgi import app_of, get
async def main():
    app = app_of()
    assert "prometheus_client" not in sys.modules
    async with app.router.lifespan_context(app):
        before = set(sys.modules)
        assert (await get(app, "/livez")).status == 200
        assert not set(sys.modules) - before, set(sys.modules) - before
asyncio.run(main())
"""


def test_no_request_waits_for_an_import() -> None:
    tests = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", STARTS, tests], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/nope", "/ lists the routes there are"),
        ("/health", "/ lists the routes there are"),
        ("/chats", "did you mean /chat?"),
        ("/completions", "did you mean /v1/completions?"),
        ("/chat/completion", "did you mean /v1/chat/completions?"),
    ],
)
async def test_only_near_misses_are_suggested(path: str, hint: str) -> None:
    reply = await get(app_of(), path)
    assert reply.status == 404
    assert reply.error["message"].endswith(hint)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (EngineError("this request could not be computed"), False),
        (QueueFull("full", retry_after=0.001), True),
    ],
)
async def test_clients_hear_whether_to_try_again(error: OpenLLMError, again: bool) -> None:
    app = app_of(EchoPort(frames=[Failure(error.frame())]))
    reply = await post(app, "/chat", {"prompt": "x"})
    assert reply.status == error.status
    assert reply.headers["x-should-retry"] == ("true" if again else "false")
