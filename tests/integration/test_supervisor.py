"""Processes that die, are killed, hang or must go: what callers and other models notice."""

from __future__ import annotations

import stat
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from running import HANG_S, Running, StartServer, text_of

from open_llm_server.errors import ConfigurationError, StartError
from open_llm_server.serving import start

pytestmark = pytest.mark.server
SLOW = "step_s=0.05"
ENDLESS = "reply_tokens=1000000"


def runtime_folder(running: Running) -> Path:
    line = running.workers("api")[0].cmdline()
    return Path(line[line.index("--working-dir") + 1])


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=HANG_S)
    return not alive


def wait_for_exit(running: Running) -> int:
    return running.server._popen.wait(HANG_S)


def test_two_models_answer_by_name(shared_server: Running) -> None:
    running = shared_server
    assert running.chat(model="one").json()["usage"]["completion_tokens"] > 4
    assert running.chat(model="two").json()["usage"]["completion_tokens"] <= 4
    assert running.chat(model="three").status_code == 404


def test_a_killed_runner_breaks_its_own_streams_and_no_other(server: StartServer) -> None:
    running = server("one=fake,two=fake", sets=[f"one.{SLOW}", f"one.{ENDLESS}", f"two.{SLOW}"])
    expected = text_of(running.stream(model="two"))
    other: list[str] = []
    reader = threading.Thread(target=lambda: other.append(text_of(running.stream(model="two"))))
    stream = running.stream(model="one")
    next(stream)
    reader.start()
    first = running.worker("one")
    first.kill()
    events = list(stream)
    assert "[DONE]" not in events
    assert isinstance(events[-1], dict)
    assert events[-1]["error"]["code"] == "runner_lost"
    running.answered(model="one", max_tokens=2)
    reader.join(HANG_S)
    assert other == [expected]
    assert running.worker("one").pid != first.pid


def test_a_prompt_that_kills_its_runner_opens_the_circuit(server: StartServer) -> None:
    running = server("one=fake,two=fake", sets=["one.crash_on=poison"])
    folder = runtime_folder(running)
    note = folder / "olm-one-0.down"
    while not note.exists():
        refused = running.chat("poison", model="one")
        assert refused.status_code == 503
    refused = running.chat("fine", model="one")
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "runner_lost"
    assert float(refused.headers["retry-after"]) > 0
    assert running.chat(model="two").status_code == 200
    running.answered("fine", model="one")
    # The runner answers from the moment it is there; the supervisor sees that a little later.
    deadline = time.monotonic() + HANG_S
    while note.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_api_worker_is_replaced(server: StartServer) -> None:
    running = server("fake")
    first = running.worker("api")
    first.kill()
    running.answered()
    assert running.worker("api").pid != first.pid


def test_sigterm_lets_open_answers_end(server: StartServer) -> None:
    running = server("fake", sets=[f"fake.{SLOW}"])
    expected = text_of(running.stream())
    stream = running.stream()
    events = [next(stream)]
    processes = running.descendants()
    folder = runtime_folder(running)
    running.supervisor.terminate()
    events.extend(stream)
    assert events[-1] == "[DONE]"
    assert text_of(events) == expected
    assert wait_for_exit(running) == 0
    assert gone(processes)
    assert not folder.exists()
    with pytest.raises(httpx.ConnectError):
        running.chat()


def test_a_second_signal_ends_everything_now(server: StartServer) -> None:
    running = server("fake", sets=[f"fake.{SLOW}", f"fake.{ENDLESS}"], drain_timeout_s=3600)
    stream = running.stream()
    next(stream)
    processes = running.descendants()
    folder = runtime_folder(running)
    running.supervisor.terminate()
    while not (folder / "draining").exists():
        next(stream)
    running.supervisor.terminate()
    assert "[DONE]" not in events_until_broken(stream)
    assert wait_for_exit(running) == 0
    assert gone(processes)


def test_nothing_outlives_a_killed_supervisor(server: StartServer) -> None:
    running = server("one=fake,two=fake")
    processes = running.descendants()
    assert len(processes) >= 3
    running.supervisor.kill()
    assert gone(processes)


def test_only_the_configured_port_listens(server: StartServer) -> None:
    running = server("one=fake,two=fake", api_workers=2)
    assert len(running.workers("api")) == 2
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in (running.supervisor, *running.descendants())
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or connection.type.name == "SOCK_DGRAM"
    }
    assert listening == {("127.0.0.1", running.port)}
    folder = runtime_folder(running)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "resolved.json").stat().st_mode) == 0o600
    sockets = [path for path in folder.iterdir() if path.is_socket()]
    assert len(sockets) == 2
    assert running.chat().status_code == 200


def test_two_servers_live_side_by_side(
    server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    first, second = server("fake"), server("fake")
    for running in (first, second, first):
        assert running.chat().status_code == 200
    assert [path.name for path in tmp_path.rglob("*prometheus*")] == []
    first.server.stop()
    assert second.chat().status_code == 200


def test_a_read_only_home_is_no_obstacle(
    server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", "/proc/nowhere")
    assert server("fake").chat().status_code == 200


def test_a_taken_port_is_named(shared_server: Running) -> None:
    with pytest.raises(StartError, match=rf"port {shared_server.port} .* --port") as raised:
        start("fake", port=shared_server.port)
    assert raised.value.exit_code == 1


def test_a_model_that_cannot_be_loaded_ends_the_start(server: StartServer) -> None:
    with pytest.raises(StartError, match="pre-prompt"):
        server("one=fake,two=fake", sets=["one.prompt=" + "x" * 9999, "one.context_length=512"])


def test_what_is_wrong_in_the_call_is_said_in_the_call() -> None:
    with pytest.raises(ConfigurationError, match="fake"):
        start("fakee", port=0)


def events_until_broken(stream: Any) -> list[Any]:
    events = []
    try:
        for event in stream:
            events.append(event)
    except httpx.HTTPError:
        pass
    return events
