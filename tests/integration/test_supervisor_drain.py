"""Servers that are told to stop while they answer: what open and new requests hear."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from running import HANG_S, Running, StartServer

pytestmark = pytest.mark.server
SLOW = "fake.step_s=0.05"
STUCK = "fake.step_s=3600"
ENDLESS = "fake.reply_tokens=1000000"


def test_a_stream_that_outlasts_the_drain_limit_ends_with_an_error(server: StartServer) -> None:
    running = server("fake", sets=[SLOW, ENDLESS], drain_timeout_s=0.2)
    stream = running.stream()
    events = [next(stream)]
    running.supervisor.send_signal(signal.SIGINT)
    events.extend(stream)
    assert "[DONE]" not in events
    assert isinstance(events[-1], dict)
    assert events[-1]["error"]["code"] == "draining"
    assert running.server._popen.wait(HANG_S) == 0


@pytest.mark.parametrize("pace", [SLOW, STUCK], ids=["writing", "silent"])
def test_an_answer_in_one_piece_is_refused_at_the_drain_limit(
    server: StartServer, pace: str
) -> None:
    running = server("fake", sets=[pace, ENDLESS], drain_timeout_s=0.2)
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(running.chat)
        until_running(running, 1)
        running.supervisor.terminate()
        response = answer.result(HANG_S)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "draining"
    assert int(response.headers["retry-after"]) >= 1
    assert running.server._popen.wait(HANG_S) == 0


def test_new_connections_hear_of_the_drain_until_the_last_answer_is_done(
    server: StartServer,
) -> None:
    running = server("fake", sets=["fake.step_s=0.2", "fake.reply_tokens=20"], api_workers=2)
    stream = running.stream()
    events = [next(stream)]
    running.supervisor.terminate()
    while True:
        refused = running.chat(max_tokens=1)
        if refused.status_code != 200:
            break
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "draining"
    assert int(refused.headers["retry-after"]) >= 1
    assert httpx.get(f"{running.url}/livez").status_code == 200
    events.extend(stream)
    assert events[-1] == "[DONE]"
    assert running.server._popen.wait(HANG_S) == 0
    with pytest.raises(httpx.ConnectError):
        running.chat()


def until_running(running: Running, count: int) -> None:
    """The model says that it works on so many sequences."""
    deadline = time.monotonic() + HANG_S
    wanted = f'open_llm_requests_running{{model="fake"}} {float(count)}'
    while wanted not in httpx.get(f"{running.url}/metrics", timeout=HANG_S).text:
        assert time.monotonic() < deadline
