"""The service under `bentoml serve`, ours and somebody's own, and BentoML's limits under ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from running import HANG_S, Serve, StartServer

pytestmark = pytest.mark.server

OWN_SERVICE = """
import bentoml

from open_llm_server.fake import get_runner

llm = get_runner(reply_tokens=3, temperature=0.0)
second = get_runner("second=fake", reply_tokens=2)


class Shout(bentoml.legacy.Runnable):
    SUPPORTED_RESOURCES = ("cpu",)
    SUPPORTS_CPU_MULTI_THREADING = True

    @bentoml.legacy.Runnable.method
    def loud(self, text):
        return text.upper()


shout = bentoml.legacy.Runner(Shout, name="shout")
svc = bentoml.legacy.Service("mine", runners=[llm, second, shout])


@svc.api(input=bentoml.io.Text(), output=bentoml.io.JSON())
async def ask(text):
    answer = await llm.chat(text)
    pieces = [piece async for piece in llm.chat_stream(text)]
    vectors = await second.embed([text, text])
    lines = [line async for line in llm.call.async_stream(INFO)]
    return {
        "message": answer.message,
        "streamed": "".join(pieces),
        "tokens": answer.usage.completion_tokens,
        "loud": await shout.loud.async_run(answer.message),
        "vectors": len(vectors.embeddings),
        "lines": lines,
    }


INFO = '{"op":"info","id":"x","request":{}}'
"""


def test_bentoml_serve_serves_our_api_and_nothing_of_its_own(bentoml_serve: Serve) -> None:
    url = bentoml_serve("open_llm_server.service:svc", OPEN_LLM_MODELS="one=fake,two=fake")
    body = {"prompt": "Hello", "model": "two"}
    answer = httpx.post(f"{url}/chat", json=body, timeout=HANG_S).json()
    assert answer["message"]
    page = httpx.get(f"{url}/", timeout=HANG_S)
    assert page.status_code == 200
    assert "googletagmanager" not in page.text
    for path in ("/docs.json", "/static_content/index.css", "/healthz/nothing"):
        refused = httpx.get(f"{url}{path}", timeout=HANG_S)
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "route_not_found"
    assert "bentoml_" not in httpx.get(f"{url}/metrics", timeout=HANG_S).text


def test_runners_in_a_service_of_ones_own(bentoml_serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_SERVICE)
    url = bentoml_serve("mine:svc")
    response = httpx.post(
        f"{url}/ask", content="Hello", headers={"content-type": "text/plain"}, timeout=HANG_S
    )
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["message"]
    assert answer["streamed"] == answer["message"]
    assert answer["loud"] == answer["message"].upper()
    assert answer["tokens"] == 4
    assert answer["vectors"] == 2
    assert answer["lines"][0].startswith('{"info":')


def test_bentomls_time_limits_do_not_cut_long_answers(
    server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = tmp_path / "bentoml.yaml"
    limits.write_text(
        "version: 1\napi_server: {traffic: {timeout: 1}}\nrunners: {traffic: {timeout: 1}}\n"
    )
    monkeypatch.setenv("BENTOML_CONFIG", str(limits))
    running = server("fake", sets=["fake.step_s=0.1"])  # 16 words: well over a second
    assert running.chat().status_code == 200


def test_no_telemetry() -> None:
    """Also when the service is imported by a BentoML that has decided already to track."""
    code = (
        "from bentoml._internal.utils.analytics import usage_stats\n"
        "assert not usage_stats.do_not_track()\n"
        "import open_llm_server.service\n"
        "assert usage_stats.do_not_track()\n"
    )
    environment = {**os.environ, "OPEN_LLM_MODELS": "fake"}
    environment.pop("BENTOML_DO_NOT_TRACK", None)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=HANG_S)
