"""`query` and `chat` as people and scripts use them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from running import HANG_S, Running, StartServer
from terminals import CTRL_C, CTRL_D, Terminal

pytestmark = pytest.mark.server

PROGRAM = [sys.executable, "-m", "open_llm_server"]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPEN_LLM_")}
    return kept | more


def query(
    *words: str, text: str | bytes = "", code: int = 0, env: Mapping[str, str] | None = None
) -> tuple[str, str]:
    done = subprocess.run(
        [*PROGRAM, "query", *words],
        input=text.encode() if isinstance(text, str) else text,
        capture_output=True,
        timeout=HANG_S,
        env=env or environment(),
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == code, (done.returncode, out, err)
    return out, err


@pytest.fixture
def talk(shared_server: Running, tmp_path: Path) -> Terminal:
    command = [*PROGRAM, "chat", "--url", shared_server.url]
    return Terminal(command, environment(), tmp_path)


# -- query -----------------------------------------------------------------------------------


def test_a_question(shared_server: Running) -> None:
    expected = shared_server.chat("How are you?").json()["choices"][0]["message"]["content"]
    out, err = query("How are you?", "--url", shared_server.url)
    assert (out, err) == (f"{expected}\n", "")
    assert query("-", "--url", shared_server.url, text="How are you?")[0] == out
    named = environment(OPEN_LLM_ENDPOINT=shared_server.url)
    assert query("How are you?", env=named)[0] == out


def test_values_and_the_whole_answer(shared_server: Running) -> None:
    out, _ = query(
        *("Hello", "--url", shared_server.url, "--model", "two", "--json"),
        *("--temperature", "0.5", "--top-k", "3", "--stop-sequence", "--", "--seed", "7"),
    )
    answer = json.loads(out)
    used = answer["configuration"]
    assert (used["temperature"], used["top_k"], used["stop_sequence"]) == (0.5, 3, ["--"])
    assert answer["model"] == "two"
    assert answer["usage"]["completion_tokens"] >= 3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--temperature", "9"], 2, "temperature: Input should be less than or equal to 2"),
        (["--model", "nobody"], 2, "this server has: one, two"),
        (["--temperature", "warm"], 2, "'warm' is not a valid float"),
        (["--url", "http://127.0.0.1:9"], 69, "open-llm-server start"),
        (["--url", "ftp://127.0.0.1"], 2, "http://"),
        (["--timeout", "0.000001"], 75, "timeout"),
    ],
)
def test_failures_have_codes(
    shared_server: Running, words: list[str], code: int, said: str
) -> None:
    url = [] if "--url" in words else ["--url", shared_server.url]
    out, err = query("Hello", *url, *words, code=code)
    assert out == ""
    assert err.startswith("error: ") and said in err and err.count("\n") == 1


def test_a_wrong_key_and_a_full_queue(server: StartServer) -> None:
    running = server("fake", api_key="right", slots=1, queue_size=1, step_s=0.05, reply_tokens=5000)
    _, err = query("Hello", "--url", running.url, code=77)
    assert "API key" in err
    key = environment(OPEN_LLM_API_KEY="right")
    command = [*PROGRAM, "query", "Hello", "--url", running.url]
    null = subprocess.DEVNULL
    busy = [subprocess.Popen(command, stdout=null, stderr=null, env=key) for _ in range(2)]
    try:
        deadline = time.monotonic() + HANG_S
        while gauges(running) != {"running": 1, "waiting": 1}:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        _, err = query("Hello", "--url", running.url, "--timeout", "5", env=key, code=75)
        assert "queue" in err
    finally:
        for process in busy:
            process.kill()
            process.wait(HANG_S)


def gauges(running: Running) -> dict[str, int]:
    text = httpx.get(f"{running.url}/metrics", headers={"X-Api-Key": "right"}).text
    found = re.findall(r"^open_llm_requests_(running|waiting){.*} (\d+)", text, re.MULTILINE)
    return {name: int(value) for name, value in found}


def test_standard_input_that_is_no_text(shared_server: Running) -> None:
    _, err = query("-", "--url", shared_server.url, text=b"\xff\xfe", code=2)
    assert "not UTF-8" in err


def test_an_answer_that_breaks_off(server: StartServer) -> None:
    running = server("fake", crash_on="now", step_s=0.05)
    out, err = query("crash now", "--url", running.url, code=75)
    assert out == "" and err.startswith("error: ")


# -- chat ------------------------------------------------------------------------------------


def test_a_conversation(talk: Terminal, tmp_path: Path, shared_server: Running) -> None:
    expected = shared_server.chat("How are you?").json()["choices"][0]["message"]["content"]
    with talk as person:
        person.sees("/help lists commands")
        person.sees(">>> ")
        person.types("How are you?")
        assert expected in person.sees(">>> ")
        person.types("/model")
        assert "* one  ready\n  two  ready" in person.sees(">>> ")
        person.types("/model tow")
        assert "there is no model tow here; there is one, two" in person.sees(">>> ")
        person.types("/model two")
        assert "now talking to two" in person.sees(">>> ")
        person.types("/system Be brief.")
        person.sees(">>> ")
        person.types('"""')
        person.sees("... ")
        person.types("two")
        person.sees("... ")
        person.types("lines")
        person.sees("... ")
        person.types('"""')
        person.sees(">>> ")
        person.types("/save talk.json")
        assert "saved as talk.json" in person.sees(">>> ")
        person.types("/save talk.json")
        assert "exists already" in person.sees(">>> ")
        person.types("/hlep")
        assert "there is no /hlep; did you mean '/help'?" in person.sees(">>> ")
        person.types("/help")
        assert "/system [TEXT]" in person.sees(">>> ")
        person.types(CTRL_D, enter=False)
        assert person.ends() == 0
    saved = json.loads((tmp_path / "talk.json").read_text())
    roles = [turn["role"] for turn in saved["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert saved["messages"][0]["content"] == "Be brief."
    assert saved["messages"][1]["content"] == "How are you?"
    assert saved["messages"][3]["content"] == "two\nlines"


def test_ctrl_c_stops_the_answer_only(server: StartServer, tmp_path: Path) -> None:
    running = server("fake", step_s=0.05, reply_tokens=2000)
    with Terminal([*PROGRAM, "chat", "--url", running.url], environment(), tmp_path) as person:
        person.sees(">>> ")
        person.types("Hello")
        person.sees(" ")
        person.types(CTRL_C, enter=False)
        person.sees("(stopped)")
        person.sees(">>> ")
        person.types("half a line", enter=False)
        person.types(CTRL_C, enter=False)
        person.sees(">>> ")
        person.types("/save left.json")
        person.sees("saved as")
        person.types("/bye")
        assert person.ends() == 0
    assert json.loads((tmp_path / "left.json").read_text())["messages"] == []


def test_odd_lines(talk: Terminal) -> None:
    with talk as person:
        person.sees(">>> ")
        for line, words in {
            "/save ~nobody-of-this-name/talk": "cannot be written",
            "/bogus\x1b[2J": "there is no /bogus",
            "/system\tBe brief.": "is told so",
            "/save": "say where",
        }.items():
            person.types(line)
            assert words in person.sees(">>> ")
        for line in ('"""', "/help", '"""'):
            person.types(line)
        assert "this list" not in person.sees(">>> ")
        person.types("/bye now")
        assert person.ends() == 0


@pytest.mark.parametrize("words", [["query", "Hello"], ["query", "Hello", "--json"], ["chat"]])
def test_nowhere_to_write_to(shared_server: Running, words: list[str]) -> None:
    program = " ".join([*PROGRAM, *words, "--url", shared_server.url])
    for output, code in ((">/dev/full", 1), (">&-", 2), ("| head -c 0", 0)):
        done = subprocess.run(
            ["bash", "-c", f"echo Hello | {program} {output}"],
            capture_output=True,
            text=True,
            timeout=HANG_S,
            env=environment(),
        )
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
        assert done.returncode == code, (output, done.stderr)


def test_nothing_to_read_from(shared_server: Running) -> None:
    for words in ("query -", "chat"):
        program = " ".join([*PROGRAM, words, "--url", shared_server.url])
        done = subprocess.run(
            ["bash", "-c", f"{program} <&-"],
            capture_output=True,
            text=True,
            timeout=HANG_S,
            env=environment(),
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "standard input is closed" in done.stderr


def test_a_message_that_the_pipe_breaks_off(shared_server: Running) -> None:
    done = subprocess.run(
        [*PROGRAM, "chat", "--url", shared_server.url],
        input=b'"""\nHello \xff\n/help\n',
        capture_output=True,
        timeout=HANG_S,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and b"this list" not in done.stdout


def test_an_error_ends_no_conversation(talk: Terminal) -> None:
    with talk as person:
        person.sees(">>> ")
        person.types("word " * 5000)
        assert "error: " in person.sees(">>> ")
        person.types("Hello")
        person.sees(">>> ")
        person.types("/bye")
        assert person.ends() == 0


def test_from_a_pipe(shared_server: Running) -> None:
    done = subprocess.run(
        [*PROGRAM, "chat", "two", "--url", shared_server.url],
        input="Hello\n\nHow are you?\n",
        capture_output=True,
        text=True,
        timeout=HANG_S,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert ">>>" not in done.stdout


def test_without_a_server_one_is_started(tmp_path: Path) -> None:
    """Where somebody listens at the usual port, that is who is talked to; so none may."""
    done = subprocess.run(
        [sys.executable, "-c", OWN],
        input="Hello\n",
        capture_output=True,
        text=True,
        timeout=2 * HANG_S,
        env=environment(
            OPEN_LLM_GRPC="true", OPEN_LLM_API_KEY="one,two", OPEN_LLM_TLS_CERT=__file__
        ),
    )
    assert done.returncode == 0, done.stderr
    assert "starting one with tiny" in done.stderr
    assert done.stdout.strip()


OWN = """
import open_llm_client
from open_llm_server.cli import main

real = open_llm_client.create
open_llm_client.create = lambda url, **rest: real(url or "http://127.0.0.1:9", **rest)
main(["chat", "--temperature", "0"])
"""
