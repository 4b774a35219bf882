"""Probes, metrics, the list of models, the OpenAPI document and the page."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from asgi import App, app_of, call, get, post
from ports import EchoPort

from open_llm_server.api.app import ApiSettings, ServedModel, create_app
from open_llm_server.errors import EngineError, ModelLoading, QueueFull
from open_llm_server.frames import Failure, Info
from open_llm_server.port import Busy, Lost


class Broken(EchoPort):
    """A port that raises already when it is asked how it is."""

    def stream(self, request: str, *, session: str) -> Any:
        assert self.raises is not None
        raise self.raises


def loading() -> EchoPort:
    return EchoPort(info=Failure(ModelLoading("loading", retry_after=7.0).frame()))


def two(first: EchoPort, second: EchoPort) -> App:
    return create_app(
        [ServedModel("one", (), (first,)), ServedModel("two", (), (second,))], ApiSettings()
    )


async def test_livez() -> None:
    reply = await get(app_of(Broken(raises=Busy(1))), "/livez")
    assert (reply.status, reply.json) == (200, {"status": "alive"})


@pytest.mark.parametrize(
    ("port", "state", "wait"),
    [
        (loading(), "loading", "7"),
        (EchoPort(info=Failure(EngineError("x").frame())), "failed", "2"),
        (EchoPort(info=Info({"ready": False})), "failed", "2"),
        (Broken(raises=Busy(4.5)), "restarting", "5"),
        (Broken(raises=Lost(started=False, why="x")), "lost", "2"),
        (EchoPort(info_stalls=True), "silent", "2"),
    ],
    ids=["loading", "failed", "not ready", "restarting", "lost", "silent"],
)
async def test_a_model_that_is_not_ready_makes_the_server_not_ready(
    port: EchoPort, state: str, wait: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open_llm_server.api.pulse.ASK_LIMIT_S", 0.05)
    reply = await get(two(EchoPort(), port), "/readyz")
    assert reply.status == 503
    assert reply.json == {"status": "not_ready", "models": {"one": "ready", "two": state}}
    assert reply.headers["retry-after"] == wait


async def test_how_far_an_import_is() -> None:
    progress = {"phase": "downloading", "done": 3, "total": 9, "eta_s": 4.5}
    error = ModelLoading("coming", retry_after=7, progress=progress)
    reply = await get(two(EchoPort(), EchoPort(info=Failure(error.frame()))), "/readyz")
    assert reply.json["models"] == {"one": "ready", "two": "loading"}
    assert reply.json["importing"] == {"two": progress}
    assert reply.headers["retry-after"] == "7"


async def test_a_model_is_ready_when_one_of_its_copies_is() -> None:
    reply = await get(app_of(loading(), EchoPort()), "/readyz")
    assert (reply.status, reply.json["models"]) == (200, {"echo": "ready"})


async def test_many_probes_are_one_question() -> None:
    port = EchoPort()
    app = app_of(port)
    replies = await asyncio.gather(*(get(app, "/readyz") for _ in range(50)))
    assert {reply.status for reply in replies} == {200}
    assert port.infos == 1


async def test_the_question_is_asked_again_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_llm_server.api.pulse.REMEMBER_S", 0.0)
    port = EchoPort()
    app = app_of(port)
    assert (await get(app, "/readyz")).status == 200
    port.info = loading().info
    assert (await get(app, "/readyz")).status == 503


async def test_models_say_what_they_can() -> None:
    app = app_of()
    listed = (await get(app, "/v1/models")).json
    (model,) = listed["data"]
    assert model | {"created": 0} == {
        "id": "echo",
        "object": "model",
        "created": 0,
        "owned_by": "open-llm-server",
        "family": "echo",
        "status": "ready",
        "aliases": ["alias/of-it"],
        "context_length": 4096,
        "capabilities": ["chat", "completion", "embedding"],
        "embedding_dimension": 4,
        "copies": 1,
    }
    assert (await get(app, "/v1/models/echo")).json == model
    assert (await get(app, "/v1/models/alias/of-it")).json == model
    assert (await get(app, "/v1/models/other")).error["code"] == "model_not_found"
    assert (await get(app_of(loading()), "/v1/models/echo")).json["status"] == "loading"


@pytest.mark.parametrize(
    ("told", "capabilities"),
    [
        ({"generates": False, "limits": {"embedding_size": 4}}, ["embedding"]),
        ({"generates": True, "limits": {"embedding_size": 4}}, ["chat", "completion", "embedding"]),
        ({"generates": True, "limits": {}}, ["chat", "completion"]),
    ],
)
async def test_capabilities_are_what_the_model_says(
    told: dict[str, Any], capabilities: list[str]
) -> None:
    app = app_of(EchoPort(info=Info({"ready": True, **told})))
    assert (await get(app, "/v1/models/echo")).json["capabilities"] == capabilities


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/v1/models", "/openapi.json"])
async def test_head_is_get_without_a_body(path: str) -> None:
    app = app_of()
    got, head = await get(app, path), await call(app, "HEAD", path)
    assert head.status == got.status
    assert head.body == b""
    assert head.headers["content-length"] == str(len(got.body))


async def test_metrics() -> None:
    full = EchoPort(frames=[Failure(QueueFull("full", retry_after=1).frame())])
    app = create_app(
        [ServedModel("echo", (), (EchoPort(),)), ServedModel("full", (), (full,))], ApiSettings()
    )
    for stream in (True, False):
        await post(app, "/chat", {"prompt": "one two three", "stream": stream, "seed": 424242})
    await post(app, "/chat", {"prompt": "x", "model": "full"})
    for index in range(300):
        await post(app, "/chat", {"prompt": "x", "model": f"planted-{index}"})
        await get(app, f"/planted-{index}", [("authorization", "Bearer planted")])
        await get(app, f"/v1/models/planted-{index}")
    reply = await get(app, "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    lines = reply.text.splitlines()

    def value(name: str, **labels: str) -> float:
        wanted = {f'{key}="{text}"' for key, text in labels.items()}
        found = [
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if re.match(rf"open_llm_{name}[{{ ]", line) and all(one in line for one in wanted)
        ]
        return sum(found)

    ok = {"route": "/chat", "model": "echo", "code": "200", "reason": "stop"}
    assert value("requests_total", **ok) == 2
    assert value("requests_total", model="full", code="429", reason="queue_full") == 1
    assert value("requests_total", model="unknown", code="404") == 300
    assert value("requests_total", route="unknown", code="404") == 300
    assert value("tokens_total", model="echo", kind="prompt") == 6
    assert value("tokens_total", model="echo", kind="completion") == 6
    assert value("time_to_first_token_seconds_count", model="echo") == 2
    assert value("inter_token_seconds_count", model="echo") == 4
    assert value("queue_wait_seconds_count", model="echo") == 2
    assert value("request_seconds_count", model="echo", route="/chat") == 2
    assert value("requests_running", model="echo") == 2
    assert value("requests_waiting", model="echo") == 1
    assert value("model_ready", model="full") == 1
    assert "planted" not in reply.text
    assert "424242" not in reply.text
    assert len(lines) < 400


MULTI = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from asgi import app_of, get, post
from open_llm_server.api.app import create_app
async def main():
    app = app_of()
    for _ in range(3):
        await post(app, "/chat", {{"prompt": "one two"}})
    print((await get(app, "/metrics")).text)
asyncio.run(main())
"""


def test_several_processes_share_their_metrics(tmp_path: Path) -> None:
    script = MULTI.format(tests=str(Path(__file__).parents[1]))
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    # Somebody else's metric in the same folder: not ours to show.
    other = (
        "from prometheus_client import Counter\nCounter('other', '', ['path']).labels('/x').inc()"
    )
    for code in (other, script):
        told = subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True
        )
    last = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    assert b"open_llm_requests_total" in told.stdout
    counted = [
        line for line in last.stdout.splitlines() if line.startswith("open_llm_requests_total")
    ]
    assert [line.rsplit(" ", 1)[1] for line in counted if 'route="/chat"' in line] == ["6.0"]
    assert "other_total" not in last.stdout
    assert 'open_llm_requests_running{model="echo"} 2.0' in last.stdout


async def test_openapi_names_every_route_and_every_status() -> None:
    app = app_of()
    document = (await get(app, "/openapi.json")).json
    assert document["openapi"] == "3.1.0"
    routes = {route.path.replace(":path", "") for route in app.routes}
    assert set(document["paths"]) == routes
    for path, operations in document["paths"].items():
        for method in set(operations) - {"parameters"}:
            statuses = set(operations[method]["responses"])
            assert {"200", "400", "403", "405", "500"} <= statuses
            if method == "post":
                assert statuses >= {"404", "408", "413", "415", "429", "503", "504"}, path
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/([^"]+)"', text):
        assert name in schemas
    keyed = (await get(app_of(api_key_hashes=("0" * 64,)), "/livez")).status
    assert keyed == 200


async def test_openapi_says_when_keys_are_wanted() -> None:
    from open_llm_server.api.app import hash_key

    app = app_of(api_key_hashes=(hash_key("k"),))
    document = (await get(app, "/openapi.json", [("x-api-key", "k")])).json
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    for path, operations in document["paths"].items():
        for method in set(operations) - {"parameters"}:
            public = path in ("/", "/livez", "/readyz")
            assert ("security" in operations[method]) != public
            assert ("401" in operations[method]["responses"]) != public


async def test_the_page_stands_alone() -> None:
    app = create_app(
        [ServedModel("<script>alert(1)</script>", (), (EchoPort(),), {"family": "<b>"})],
        ApiSettings(version="1.2.3"),
    )
    reply = await get(app, "/")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "<script" not in reply.text
    assert "<b>" not in reply.text
    assert "1.2.3" in reply.text
    assert "curl http://127.0.0.1:5000/chat" in reply.text
    elsewhere = re.findall(r"(?:src|href)=[\"']([^\"']+)", reply.text)
    assert all(link.startswith(("/", "data:,")) and "//" not in link for link in elsewhere)


async def test_the_page_names_the_key_header_only_where_keys_are_wanted() -> None:
    assert "Authorization" not in (await get(app_of(), "/")).text
    assert "Authorization" in (await get(app_of(api_key_hashes=("0" * 64,)), "/")).text
