"""Answers that are not complete when the time after SIGTERM is over, down to the event."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from answered_texts import STREAMED, body
from asgi import Client, app_of
from ports import EchoPort

from open_llm_server.api.pulse import Drain
from open_llm_server.errors import Draining

LIMIT_S = 60.0


def over(folder: Path) -> None:
    """The supervisor said so, and the time that it allowed is over."""
    sign = folder / "draining"
    sign.touch()
    then = time.time() - LIMIT_S - 1
    os.utime(sign, (then, then))


@pytest.mark.parametrize("path", STREAMED)
async def test_a_stream_whose_model_is_silent_ends_with_an_error(path: str, tmp_path: Path) -> None:
    port = EchoPort(stalls=True, after=2)
    app = app_of(port, runtime_dir=tmp_path, drain_timeout_s=LIMIT_S)
    raw = json.dumps(body(path, stream=True)).encode()
    async with Client(app, "POST", path, pieces=[raw]) as client:
        assert (await client.start()).status == 200
        over(tmp_path)
        last = b""
        while not last.startswith(b"event: error"):
            last = await client.piece()
        assert json.loads(last.partition(b"data: ")[2])["error"]["code"] == "draining"
    await port.until_closed()


async def test_an_answer_in_one_piece_is_refused(tmp_path: Path) -> None:
    port = EchoPort(stalls=True, after=2)
    app = app_of(port, runtime_dir=tmp_path, drain_timeout_s=LIMIT_S)
    async with Client(app, "POST", "/chat", pieces=[b'{"prompt": "one two"}']) as client:
        await port.until_opened()
        over(tmp_path)
        reply = await client.whole()
    assert (reply.status, reply.error["code"]) == (503, "draining")
    assert int(reply.headers["retry-after"]) >= 1
    await port.until_closed()


async def test_the_limit_counts_from_the_sign_on(tmp_path: Path) -> None:
    (tmp_path / "draining").touch()
    assert Drain(tmp_path, LIMIT_S).cut() > Drain(None, LIMIT_S).cut()
    over(tmp_path)
    with pytest.raises(Draining, match="60 s"):
        Drain(tmp_path, LIMIT_S).cut()
