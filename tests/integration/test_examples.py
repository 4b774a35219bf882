"""examples/: each is run as its README says, but for the ports, from a copy of its folder."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from bentos import chat, served, shell, until
from running import HANG_S, StartServer
from shells import Person

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
pytestmark = pytest.mark.server


def lines_of(name: str) -> list[str]:
    blocks = re.findall(
        r"^```bash\n(.*?)^```", (EXAMPLES / name / "README.md").read_text(), re.M | re.S
    )
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture
def person(tmp_path: Path) -> Callable[[str], Person]:
    def enter(name: str) -> Person:
        folder = tmp_path / name
        shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
        return Person(folder, {})

    return enter


@contextmanager
def running(name: str, person: Person, **environment: str) -> Iterator[str]:
    (line,) = [line for line in lines_of(name) if "bentoml serve " in line]
    with served(line, person.folder, {**person.environment, **environment}) as url:
        yield url


def curl(line: str, url: str) -> httpx.Response:
    """What a line of a README asks, and gets."""
    words = shlex.split(line)
    assert words.pop(0) == "curl"
    headers, data, target = {}, None, ""
    while words:
        match words.pop(0):
            case "-H":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            case "-d":
                data = words.pop(0)
            case "-N":
                pass
            case address:
                target = re.sub(r"^localhost:\d+", url, address)
    method = "POST" if data else "GET"
    response = httpx.request(method, target, headers=headers, content=data, timeout=HANG_S)
    assert response.status_code == 200, response.text
    return response


def test_the_list_is_complete() -> None:
    folders = {path.parent.name for path in EXAMPLES.glob("*/README.md")}
    listed = set(re.findall(r"^\| \[(\w+)\]", (EXAMPLES / "README.md").read_text(), re.M))
    assert folders == listed == {"two_models", "fastapi_app", "own_family", "new_style"}


def test_two_models(person: Callable[[str], Person]) -> None:
    with running("two_models", person("two_models")) as url:
        asked = [curl(line, url).json() for line in lines_of("two_models")[1:]]
        call = "curl localhost:3000/ask -H 'Content-Type: text/plain' -d 'Call +49 30 1234567!'"
        phoned = curl(call, url).json()
        empty, long = (httpx.post(f"{url}/ask", content=text) for text in ("", "word " * 5000))
    assert [answer["by"] for answer in asked] == ["search", "writer"]
    assert "thirty days" in asked[0]["answer"]
    assert asked[0]["question"].endswith("Write to <e-mail>.")
    assert asked[1]["answer"]
    assert phoned["question"] == "Call <phone>!"
    assert (empty.status_code, long.status_code) == (400, 400)
    assert "shorten" in long.json()["error"]
    assert empty.json()["error"]


@pytest.fixture(scope="module")
def redact() -> Callable[[str], str]:
    service: dict[str, Any] = runpy.run_path(str(EXAMPLES / "two_models" / "service.py"))
    found: Callable[[str], str] = service["redact"]
    return found


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("555.123.4567", "<phone>"),
        ("(555) 123-4567", "<phone>"),
        ("+49 (0)30 1234567.", "<phone>."),
        ("+1 (555) 123-4567", "<phone>"),
        ("1234 5678 9012 3456", "<phone>"),
        ('"a b"@x.org', "<e-mail>"),
        ("<o'neil+x@a.b.org>", "<<e-mail>>"),
        ("12 pairs, at 9.30 on 1.2.", "12 pairs, at 9.30 on 1.2."),
    ],
)
def test_what_two_models_take_for_private(
    redact: Callable[[str], str], text: str, left: str
) -> None:
    assert redact(text) == left


def events(response: httpx.Response) -> Iterator[Any]:
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def test_fastapi_app(person: Callable[[str], Person]) -> None:
    """Its commands; a refusal before the stream; and a caller who leaves."""
    slow = {"MODEL": "slow=fake", "OPEN_LLM_SLOW_STEP_S": "0.02"}
    limits = {"OPEN_LLM_SLOW_REPLY_TOKENS": "100000", "OPEN_LLM_SLOW_CONTEXT_LENGTH": "1000"}
    install, _, stream, queue = lines_of("fastapi_app")
    assert install == "pip install -r requirements.txt"
    with running("fastapi_app", person("fastapi_app"), **slow, **limits) as url:
        address = stream.split("'")[1].replace("localhost:3000", url)
        with httpx.stream("GET", address, timeout=HANG_S) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            written = events(response)  # held on to: who drops it closes the connection
            assert all(next(written)["text"] for _ in range(3))
            until(lambda: curl(queue, url).json() == {"running": 1, "waiting": 0})
        until(lambda: curl(queue, url).json() == {"running": 0, "waiting": 0})
        refused = httpx.get(f"{url}/app/stream", params={"q": "x" * 2000}, timeout=HANG_S)
        assert refused.status_code == 400
        assert "shorten" in refused.json()["detail"]


def test_fastapi_app_says_when_to_come_back(person: Callable[[str], Person]) -> None:
    slow = {"MODEL": "slow=fake", "OPEN_LLM_SLOW_STEP_S": "0.02"}
    one = {"OPEN_LLM_SLOW_REPLY_TOKENS": "1000", "OPEN_LLM_SLOW_SLOTS": "1"}
    none = {"OPEN_LLM_SLOW_QUEUE_SIZE": "0"}
    with running("fastapi_app", person("fastapi_app"), **slow, **one, **none) as url:
        address = f"{url}/app/stream?q=count"
        with httpx.stream("GET", address, timeout=HANG_S) as response:
            written = events(response)
            assert next(written)["text"]
            refused = httpx.get(address, timeout=HANG_S)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1


def test_own_family(person: Callable[[str], Person], tmp_path: Path) -> None:
    """Installed beside the server, into a folder of its own; nothing comes from an index."""
    install, models, options, start, ask = lines_of("own_family")
    someone = person("own_family")
    assert install == "pip install ."
    command = f"{sys.executable} -m pip install --quiet --no-deps --no-index --no-build-isolation"
    shell(f"{command} --target {tmp_path}/site .", someone.folder, someone.environment)
    someone = Person(tmp_path, {"PYTHONPATH": str(tmp_path / "site")})
    assert "markov (plug-in)" in shell(models, tmp_path, someone.environment)
    assert "--order INTEGER" in shell(options, tmp_path, someone.environment)
    with served(start.replace("--port 5000", "--port 3000"), tmp_path, someone.environment) as url:
        answers = {curl(ask, url).json()["message"] for _ in range(2)}
        assert len(answers) == 1
        assert answers.pop().endswith(".")
        greedy = chat(url, prompt="The wind", temperature=0)
        assert greedy == chat(url, prompt="The wind", temperature=0)
        assert chat(url, prompt="The wind", temperature=0.001)
    script = "from olm_markov import get_runner; print(get_runner(order=2).plan.config['order'])"
    assert shell(f'{sys.executable} -c "{script}"', tmp_path, someone.environment) == "2\n"
    built = json.loads(shell("open-llm-server build markov --json", tmp_path, someone.environment))
    assert built["packages"] == ["olm-markov==1.0"]


def test_new_style(person: Callable[[str], Person], server: StartServer) -> None:
    """Its stream is whole; and when the caller leaves, the model behind it stops."""
    start, _, ask = lines_of("new_style")
    assert start.startswith("open-llm-server start tiny")
    models = server("tiny,slow=fake", sets=["slow.step_s=0.02", "slow.reply_tokens=100000"])
    endpoint = {"OPEN_LLM_ENDPOINT": models.url}
    line = lines_of("new_style")[1].partition(" ")[2]
    someone = person("new_style")
    with served(line, someone.folder, {**someone.environment, **endpoint}) as url:
        assert curl(ask, url).text
        data = {"text": "count", "model": "slow"}
        with httpx.stream("POST", f"{url}/ask", json=data, timeout=HANG_S) as response:
            pieces = response.iter_text()
            assert next(pieces)
            until(lambda: running_in(models.url) == 1)
        until(lambda: running_in(models.url) == 0)


def running_in(url: str) -> int:
    text = httpx.get(f"{url}/metrics", timeout=HANG_S).text
    (found,) = re.findall(r'^open_llm_requests_running\{model="slow"\} (\d+)', text, re.M)
    return int(found)
