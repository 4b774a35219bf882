"""docs/api.md is kept: its commands run, and it names every route, field and error."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from asgi import app_of, call
from starlette.routing import Route

from open_llm_server import core
from open_llm_server.api.openai import REFUSED
from open_llm_server.api.routes import GENERATE
from open_llm_server.errors import OpenLLMError, RequestError, StartError, Unavailable, tree

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 9


@pytest.mark.parametrize("command", COMMANDS)
async def test_the_commands_run(command: str) -> None:
    words = [word for word in shlex.split(command) if word != "-N"]
    assert words[0] == "curl"
    path = words[1].removeprefix("localhost:5000")
    body = words[words.index("-d") + 1] if "-d" in words else None
    # What curl declares unless told otherwise.
    kind = "application/json" if "-H" in words else "application/x-www-form-urlencoded"
    if body is None:
        reply = await call(app_of(), "GET", path)
    else:
        reply = await call(app_of(), "POST", path, body.encode(), [("content-type", kind)])
    assert reply.status == 200, reply.text
    assert "x-ignored-parameters" not in reply.headers


def test_json_on_the_page_is_json() -> None:
    blocks = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for block in blocks:
        json.loads(block)


def test_every_route_is_there() -> None:
    for route in app_of().routes:
        assert isinstance(route, Route)
        assert f"{route.path.replace(':path', '')}`" in PAGE


def test_every_field_is_there() -> None:
    fields = {name for route in GENERATE for name in route.body.model_fields}
    for name in fields | set(core.SAMPLING_FIELDS) | set(REFUSED) | {"include_usage"}:
        assert f"`{name}`" in PAGE, name


def test_every_error_is_there_with_its_status() -> None:
    # These have subclasses for whatever happens.
    unspecific = {OpenLLMError, RequestError, Unavailable}
    for kind in tree():
        if kind not in unspecific and not issubclass(kind, StartError):
            assert f"| {kind.status} | `{kind.code}` |" in PAGE
