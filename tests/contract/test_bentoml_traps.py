"""What BentoML's legacy runners do that we rely on or go round.

A test that fails here after an upgrade of BentoML means: read the code it names again.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import attr
import bentoml.legacy
import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.runner.container import AutoContainer
from bentoml._internal.runner.runner_handle.remote import RemoteRunnerClient
from bentoml._internal.server.http.traffic import TimeoutMiddleware
from bentoml._internal.server.http_app import DEFAULT_INDEX_HTML, HTTPAppFactory
from bentoml.exceptions import RemoteException
from toy import DEVICES, LIMIT_S

from open_llm_server.link import RunnerLink


@pytest.fixture
async def toy(toy_socket: Path) -> AsyncIterator[Any]:
    """The runner as an API worker of BentoML's sees it, with BentoML's own client."""
    from toy_service import Toy

    runner = bentoml.legacy.Runner(Toy, name="toy")
    BentoMLContainer.remote_runner_mapping.set({"toy": toy_socket.as_uri()})
    runner.init_client()
    yield runner
    handle = runner._runner_handle
    await handle._client.close()
    await handle._conn.close()
    handle._conn = None
    BentoMLContainer.remote_runner_mapping.reset()


async def collected(stream: AsyncGenerator[str, None]) -> str:
    return "".join([chunk async for chunk in stream])


async def facts_of(toy: Any) -> dict[str, Any]:
    info: dict[str, dict[str, Any]] = json.loads(await collected(toy.facts.async_stream("")))
    return info["info"]


async def test_a_stream_has_no_borders_and_splits_characters(toy: Any) -> None:
    assert await collected(toy.big.async_stream("10")) == "x" + "\N{GRINNING FACE}" * 10
    with pytest.raises(UnicodeDecodeError):
        await collected(toy.big.async_stream("500000"))


async def test_an_error_status_is_given_out_as_text(toy: Any) -> None:
    nowhere = attr.evolve(toy.facts, name="nowhere")
    assert await collected(nowhere.async_stream("")) == "Not Found"


async def test_an_exception_loses_its_type_and_words(toy: Any) -> None:
    with pytest.raises(aiohttp.ClientPayloadError) as raised:
        await collected(toy.breaks.async_stream(""))
    assert "secret" not in str(raised.value)


async def test_closing_a_stream_cancels_the_generator(toy: Any) -> None:
    stream = toy.endless.async_stream("closed early")
    assert await anext(stream)
    await stream.aclose()
    cancelled: list[str] = []
    while "closed early" not in cancelled:
        await asyncio.sleep(0.01)
        cancelled = (await facts_of(toy))["cancelled"]


async def test_an_exception_outside_of_a_stream_hangs_until_the_time_limit(toy: Any) -> None:
    started_at = time.monotonic()
    with pytest.raises(RemoteException, match="500"):
        await toy.plain_and_broken.async_run("")
    assert time.monotonic() - started_at >= LIMIT_S


async def test_the_workers_environment_is_set_from_the_strategy(toy: Any) -> None:
    assert (await facts_of(toy))["environment"] == DEVICES


async def test_our_link_sends_what_bentoml_sends(toy_socket: Path) -> None:
    payload = AutoContainer.to_payload("a call \N{GRINNING FACE}", batch_dim=0)
    link = RunnerLink(toy_socket.as_uri(), name="toy")
    assert link.body("a call \N{GRINNING FACE}") == payload.data
    assert payload.container == link.headers["Payload-Container"]
    assert json.dumps(payload.meta) == link.headers["Payload-Meta"]
    assert str(payload.batch_size) == link.headers["Batch-Size"]


def test_bentomls_client_asks_for_these_names() -> None:
    """`LinkHandle` overrides or uses them."""
    for name in ("async_stream_method", "is_ready", "_remote_runner_server_map"):
        assert hasattr(RemoteRunnerClient, name)
    assert "init_client" in vars(inspect.getmro(bentoml.legacy.Runner)[2])


def test_methods_of_a_runnable_leak_to_its_siblings() -> None:
    class Base(bentoml.legacy.Runnable):
        @bentoml.legacy.Runnable.method
        async def chat(self, _: str) -> AsyncGenerator[str, None]:
            yield ""

    class First(Base):
        @bentoml.legacy.Runnable.method
        async def extra(self, _: str) -> AsyncGenerator[str, None]:
            yield ""

    class Second(Base):
        pass

    assert "extra" in Second.bentoml_runnable_methods__


def test_the_time_limit_sits_outside_of_every_middleware() -> None:
    class Ours:
        def __init__(self, app: Any) -> None:
            self.app = app

    service = bentoml.legacy.Service("ordered")
    service.add_asgi_middleware(Ours)
    with changed(BentoMLContainer.api_server_config.traffic.timeout, 60):
        outermost, ours, *_ = [entry.cls for entry in HTTPAppFactory(service).middlewares]
        assert (outermost, ours) == (TimeoutMiddleware, Ours)
    with changed(BentoMLContainer.api_server_config.traffic.timeout, None):
        assert HTTPAppFactory(service).middlewares[0].cls is Ours


def test_bentomls_page_loads_a_tracker() -> None:
    assert "googletagmanager" in DEFAULT_INDEX_HTML


def test_the_http_worker_drops_the_ciphers_it_is_given() -> None:
    """So `child_http` sets uvicorn's TLS options itself."""
    from bentoml_cli.worker import http_api_server

    source = inspect.getsource(http_api_server.main.callback)
    assert source.count('uvicorn_options["ssl_ciphers"]') == 1
    assert 'ssl_ciphers = "TLSv1"' in source
    assert "uvicorn.Config(svc.asgi_app, **uvicorn_options)" in source


def test_the_runner_worker_wants_bentoml_unimported() -> None:
    from bentoml_cli.worker import runner

    assert 'assert "bentoml" not in sys.modules' in inspect.getsource(runner.main.callback)
    light = "import sys, bentoml_cli.worker.runner; sys.exit('bentoml' in sys.modules)"
    subprocess.run([sys.executable, "-c", light], check=True, timeout=60)


@contextlib.contextmanager
def changed(setting: Any, value: Any) -> Iterator[None]:
    before = setting.get()
    setting.set(value)
    try:
        yield
    finally:
        setting.set(before)
