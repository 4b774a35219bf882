"""A FastAPI app that streams from a model, mounted into a BentoML service."""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import bentoml
from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import StreamingResponse

from open_llm_server import get_runner
from open_llm_server.errors import OpenLLMError

llm = get_runner(os.environ.get("MODEL", "tiny"))
svc = bentoml.legacy.Service("fastapi-app", runners=[llm])
app = FastAPI(title="A model inside a FastAPI app")
svc.mount_asgi_app(app, path="/app")


@app.get("/stream")
async def stream(q: str = Query(min_length=1, max_length=4000)) -> StreamingResponse:
    pieces = llm.chat_stream(q)
    try:  # a refusal (a full queue, a prompt that is too long) comes before the first piece
        first = await anext(pieces, "")
    except OpenLLMError as error:
        wait = error.retry_after  # of a full queue; in seconds
        headers = None if wait is None else {"Retry-After": str(math.ceil(wait))}
        raise HTTPException(error.status, error.message, headers) from error
    return StreamingResponse(_events(first, pieces), media_type="text/event-stream")


async def _events(first: str, pieces: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    async with aclosing(pieces):  # closing it is what cancels the model's work
        yield _event({"text": first})
        try:
            async for piece in pieces:
                yield _event({"text": piece})
        except OpenLLMError as error:
            yield _event({"error": error.message})
    yield "data: [DONE]\n\n"


def _event(data: dict[str, str]) -> str:
    return f"data: {json.dumps(data)}\n\n"


@app.get("/queue")
async def queue() -> dict[str, Any]:
    """How many answers are being written, and how many wait."""
    facts: dict[str, Any] = (await llm.info())["queue"]
    return facts
