"""`svc`: the BentoML service of all models that are configured, behind our own API.

The supervisor starts it in worker processes, and `bentoml serve open_llm_server.service:svc`
works as well. Composes only: routes are `api`'s, models are `runner`'s.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml.exceptions
import bentoml.legacy
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.utils import BentoMLDeprecationWarning
from bentoml._internal.utils.analytics import usage_stats

from . import __version__
from .api.app import app_of
from .api.auth import hash_key
from .api.desk import Desk
from .api.settings import ApiSettings, ServedModel
from .config.merge import resolve
from .config.resolved import VARIABLE, ModelPlan, Resolved
from .config.schema import ServerConfig
from .config.vocabulary import CONFIGURATION, MODELS
from .errors import ConfigurationError, OpenLLMError
from .runner import LLMRunner
from .supervisor_doors import check_grpc
from .supervisor_logs import configure_worker_logs
from .supervisor_probe import ready_file, touch_for_ever
from .supervisor_sockets import resolve_address, shown_address

if TYPE_CHECKING:
    from .rpc.server import RpcServer

DEFAULT_MODEL = "tiny"
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Front:
    """Answers every request with our API; BentoML's app behind it sees its lifespan only.

    So BentoML's own pages, one of which loads a tracker, and its open /metrics are out of reach.
    gRPC begins before this worker counts as ready, and ends before the runners are let go.
    """

    def __init__(
        self, app: App, *, make_desk: Callable[[], Desk], server: ServerConfig, folder: Path | None
    ) -> None:
        self._app = app
        desk = make_desk()
        self._api = app_of(desk)
        self._rpc = _rpc_server(desk, server)
        self._folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._api(scope, receive, send)
            return
        signs: list[asyncio.Task[None]] = []

        async def heard() -> MutableMapping[str, Any]:
            message = await receive()
            if message["type"] == "lifespan.shutdown" and self._rpc:
                await self._rpc.stop()
            return message

        async def sent(message: MutableMapping[str, Any]) -> None:
            complete = message["type"] == "lifespan.startup.complete"
            if complete and self._rpc:
                await self._rpc.start()
            await send(message)
            if complete and self._folder:
                ready = ready_file(self._folder, os.getpid())
                signs.append(asyncio.create_task(touch_for_ever(ready)))

        try:
            async with self._api.router.lifespan_context(self._api):
                await self._app(scope, heard, sent)
        finally:
            for task in signs:
                task.cancel()


def configured() -> tuple[Resolved, Path | None]:
    """What to serve, and the supervisor's folder if there is a supervisor. Raises
    StartError."""
    path = os.environ.get(VARIABLE)
    if path:
        return Resolved.load(path), Path(path).parent
    named = any(name in os.environ for name in (CONFIGURATION, MODELS))
    resolved = resolve(() if named else DEFAULT_MODEL)
    if resolved.server.grpc:
        raise ConfigurationError(
            "bentoml serve speaks HTTP on its own port: set OPEN_LLM_GRPC_PORT to a port for gRPC "
            "beside it, and leave out OPEN_LLM_GRPC"
        )
    if resolved.server.grpc_port == 0:
        raise ConfigurationError(
            "bentoml serve tells nobody which free port it took: set OPEN_LLM_GRPC_PORT to one"
        )
    check_grpc(resolved.server)
    return resolved, None


def _adapt_bentoml() -> None:
    """BentoML's settings that both ways of serving need.

    No time limit of its own: it sits outside of every middleware, would cut long answers off
    after 60 s, and keeps a timer for each request until then. No access log, no telemetry; no
    spans of each call to a runner, which cost it a quarter of its time, unless they go somewhere.
    """
    BentoMLContainer.api_server_config.traffic.timeout.set(None)
    BentoMLContainer.api_server_config.logging.access.enabled.set(False)
    BentoMLContainer.runners_config.logging.access.enabled.set(False)
    if not BentoMLContainer.tracing.exporter_type.get():
        BentoMLContainer.tracing.excluded_urls.set(["/call"])
    os.environ[usage_stats.BENTOML_DO_NOT_TRACK] = "True"
    usage_stats.do_not_track.cache_clear()


def _make_service(resolved: Resolved, runtime_dir: Path | None) -> bentoml.legacy.Service:
    runners = [LLMRunner(plan, eager=False, runtime_dir=runtime_dir) for plan in resolved.models]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BentoMLDeprecationWarning)
        service = bentoml.legacy.Service("open-llm-server", runners=[*runners])

    def make_desk() -> Desk:
        models = [_served(plan, port) for plan, port in zip(resolved.models, runners, strict=True)]
        return Desk.of(models, _settings(resolved.server, runtime_dir))

    service.add_asgi_middleware(
        Front, make_desk=make_desk, server=resolved.server, folder=runtime_dir
    )
    return service


def _rpc_server(desk: Desk, server: ServerConfig) -> RpcServer | None:
    port = server.grpc_at
    if port is None:
        return None
    from .rpc.server import RpcServer, Tls

    tls = None
    if server.tls_cert and server.tls_key:
        tls = Tls.read(
            cert=server.tls_cert,
            key=server.tls_key,
            password=server.tls_key_password,
            ca=server.tls_ca,
        )
    _, address = resolve_address(server.host, port)
    return RpcServer(desk, shown_address(*address), tls)


def _served(plan: ModelPlan, port: LLMRunner) -> ServedModel:
    facts = {"family": plan.family, "card": plan.card, "device": plan.device}
    return ServedModel(name=plan.name, aliases=(), ports=(port,), facts=facts)


def _settings(server: ServerConfig, runtime_dir: Path | None) -> ApiSettings:
    return ApiSettings(
        version=__version__,
        host=server.host,
        api_key_hashes=tuple(hash_key(key) for key in server.api_key),
        body_limit=server.body_limit,
        timeout_s=server.timeout_s,
        drain_timeout_s=server.drain_timeout_s,
        allowed_hosts=server.allowed_hosts,
        allowed_origins=server.allowed_origins,
        probes_only=server.grpc,
        runtime_dir=runtime_dir,
    )


_adapt_bentoml()
try:
    _resolved, _runtime_dir = configured()
except OpenLLMError as wrong:
    if os.environ.get(VARIABLE):  # the supervisor's own words
        raise
    # In one line. A ValueError, which some of ours are, BentoML would take for a word that is no
    # tag, and say that instead.
    raise bentoml.exceptions.BentoMLException(wrong.message) from wrong
if _runtime_dir:
    configure_worker_logs()
svc = _make_service(_resolved, _runtime_dir)
