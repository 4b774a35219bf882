"""Processes that live and do nothing: an engine that hangs in a step, a stopped API worker."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from running import HANG_S, StartServer, text_of

from open_llm_server import serving

pytestmark = pytest.mark.server
IMPATIENT = """
import sys

from open_llm_server import supervisor, supervisor_seat

supervisor_seat.ASK_EVERY_S = 1.0
supervisor_seat.HUNG_AFTER_S = 6.0
supervisor_seat.LONGEST_ASK_S = 3.0
sys.exit(supervisor.main(sys.argv[3:]))
"""
"""In place of `child.py supervisor`: asks more often."""


def test_a_hung_engine_fails_its_requests_and_is_replaced(
    server: StartServer, capfd: pytest.CaptureFixture[str]
) -> None:
    faults = ["one.hang_on=quicksand", "one.step_s=0.05", "one.reply_tokens=1000000"]
    running = server("one=fake,two=fake", sets=[*faults, "one.step_timeout_s=0.5"])
    first, other = running.worker("one"), running.worker("two")
    stream = running.stream(model="one")
    events = [next(stream)]
    refused = running.chat("quicksand", model="one")
    assert refused.status_code == 500
    events.extend(stream)
    assert "[DONE]" not in events
    assert isinstance(events[-1], dict)
    for error in (refused.json()["error"], events[-1]["error"]):
        assert error["code"] == "engine_error"
        assert "hung" in error["message"]
    gone, _ = psutil.wait_procs([first], timeout=HANG_S)
    assert gone
    running.answered(model="one", max_tokens=2)
    assert running.worker("one").pid != first.pid
    assert running.worker("two").pid == other.pid
    said = capfd.readouterr().err
    assert "one: the engine has been in one step for 0.5 s and is taken for hung" in said
    assert "--step-timeout-s" in said


def test_slow_steps_within_the_limit_are_no_hang(server: StartServer) -> None:
    running = server("fake", sets=["fake.step_s=0.1", "fake.step_timeout_s=3"])
    worker = running.worker("fake")
    assert text_of(running.stream())
    assert running.worker("fake").pid == worker.pid


def test_a_stopped_api_worker_is_replaced(
    server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "impatient.py"
    script.write_text(IMPATIENT)
    monkeypatch.setattr(serving, "CHILD", script)
    running = server("fake")
    first = running.worker("api")
    first.suspend()
    gone, _ = psutil.wait_procs([first], timeout=HANG_S)
    assert gone
    assert running.answered().status_code == 200
    assert running.worker("api").pid != first.pid
