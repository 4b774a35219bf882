"""The process that a person starts: it starts the workers, keeps them alive, and ends them all.

One process per model and one or more for HTTP, each BentoML's own worker with its socket handed
over, so that a socket outlives the worker behind it. Serves nothing itself; imports no BentoML.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .config.devices import worker_env
from .config.folder import bentoml_home
from .config.resolved import VARIABLE, ModelPlan, Resolved
from .errors import OpenLLMError, StartError, WeightsError
from .supervisor_doors import Doors, check_grpc
from .supervisor_logs import say
from .supervisor_news import News
from .supervisor_probe import ModelProbe, file_probe
from .supervisor_process import Command, Nursery
from .supervisor_seat import Seat
from .supervisor_sockets import (
    BACKLOG,
    DRAINING,
    PROBE_URL,
    listen_unix,
    raise_open_files,
    runtime_folder,
)
from .supervisor_store import make_store, try_store

SERVICE = "open_llm_server.service:svc"
API_GRACE_S = 4.0
"""For the API worker to cut its answers at the drain limit, and to leave."""
RUNNER_GRACE_S = 5.0
KILL_GRACE_S = 1.0
SHORT_DRAIN_S = 1.0
"""Nobody needs to be told of a wait that is shorter."""

Report = Callable[[Mapping[str, object]], None]
"""Is told once: {"url", "grpc_url", "pid"} when all is ready, or {"error", "code"} when nothing
will be."""


def run(resolved: Resolved, *, report: Report | None = None, lifeline: int | None = None) -> int:
    """Serves until told to stop by SIGTERM, SIGINT or SIGHUP; returns the exit code.

    `lifeline` is a pipe that somebody else holds open: its end stops the server too. Raises
    StartError when the server cannot start; nothing is left running then.
    """
    if sys.platform == "win32":
        raise StartError(
            "this system lacks what the server needs (unix sockets, sessions): "
            "run it in a container or in WSL 2"
        )
    try:
        return asyncio.run(_run(resolved, report or (lambda _: None), lifeline))
    except StartError as error:
        if report:
            report({"error": error.message, "code": error.code})
        raise


async def _run(resolved: Resolved, report: Report, lifeline: int | None) -> int:
    check_tls(resolved)
    check_grpc(resolved.server)
    check_weights(resolved.models)
    check_store(resolved.models)
    raise_open_files()
    with contextlib.ExitStack() as held:
        doors = held.enter_context(Doors.open(resolved.server))
        resolved = resolved.model_copy(update={"server": doors.server})
        folder = held.enter_context(runtime_folder())
        mutual = " mutual" if resolved.server.tls_ca else ""
        (folder / PROBE_URL).write_text(doors.url + mutual)
        nursery = Nursery()
        held.callback(nursery.close)
        supervisor = Supervisor(resolved, doors, folder, nursery)
        held.callback(supervisor.close)
        return await supervisor.serve(report, lifeline)


@dataclass(frozen=True)
class _Stop:
    """What a person or the system asked for, and how often."""

    asked: asyncio.Event
    again: asyncio.Event

    def ask(self) -> None:
        (self.again if self.asked.is_set() else self.asked).set()


class Supervisor:
    """All workers of one server."""

    def __init__(self, resolved: Resolved, doors: Doors, folder: Path, nursery: Nursery) -> None:
        self._resolved = resolved
        self._doors = doors
        self._folder = folder
        self._nursery = nursery
        self._unix: list[socket.socket] = []
        self._probes: list[ModelProbe] = []
        self._news = News()
        self._environment = _common_environment(resolved.save(folder / "resolved.json"), folder)
        self._runners = [
            self._runner_seat(place, plan) for place, plan in enumerate(resolved.models)
        ]
        self._api = [self._api_seat(number) for number in range(resolved.server.api_workers)]

    def close(self) -> None:
        for listening in self._unix:
            listening.close()

    async def serve(self, report: Report, lifeline: int | None) -> int:
        """From the first process to the last."""
        stop = _Stop(asyncio.Event(), asyncio.Event())
        _hear(stop, lifeline)
        for plan in self._resolved.models:
            say(f"{plan.name}: {f'importing {plan.source}' if plan.missing else 'loading'} ...")
        keepers = [asyncio.create_task(seat.keep()) for seat in self._seats]
        try:
            early, everybody = self._early, self._seats
            if await self._ready(early, keepers, stop):
                if early == everybody:
                    report(self._state())
                # Ctrl-C goes to whoever holds the lifeline.
                hint = "  Ctrl-C stops" if lifeline is None else ""
                say(f"Open LLM server on {self._doors}  ({self._what()}){hint}")
                if await self._ready(everybody, keepers, stop) and early != everybody:
                    report(self._state())
                await _first(stop.asked.wait(), *keepers)
            await self._drain(keepers, stop)
        finally:
            await self._end(keepers)
        return 0

    @property
    def _seats(self) -> list[Seat]:
        return [*self._runners, *self._api]

    @property
    def _early(self) -> list[Seat]:
        """Those whose weights are here: they serve while others are being imported."""
        models = zip(self._resolved.models, self._runners, strict=True)
        return [*(seat for plan, seat in models if not plan.missing), *self._api]

    def _what(self) -> str:
        here = ", ".join(plan.name for plan in self._resolved.models if not plan.missing)
        coming = ", ".join(plan.name for plan in self._resolved.models if plan.missing)
        parts = [f"models: {here}" if here else "", f"on their way: {coming}" if coming else ""]
        return "; ".join(filter(None, parts))

    def _state(self) -> dict[str, object]:
        """For whoever started this server, and waits for all of its models."""
        failed = next((seat for seat in self._runners if seat.failed.is_set()), None)
        if failed:
            return {"error": failed.reason, "code": StartError.code}
        doors = self._doors
        return {"url": doors.url, "grpc_url": doors.grpc_url, "pid": os.getpid()}

    @staticmethod
    async def _ready(
        seats: Sequence[Seat], keepers: Sequence[asyncio.Task[None]], stop: _Stop
    ) -> bool:
        """False when asked to stop before; raises StartError when a first start failed."""

        async def ready() -> None:
            for seat in seats:
                await _first(seat.ready.wait(), seat.failed.wait())

        await _first(ready(), stop.asked.wait(), *keepers)
        return not stop.asked.is_set()

    async def _drain(self, keepers: Sequence[asyncio.Task[None]], stop: _Stop) -> None:
        """Lets running answers end, within the limit; a second request to stop ends them now."""
        limit_s = self._resolved.server.drain_timeout_s
        (self._folder / DRAINING).touch()
        # The workers share this socket, and answer 503 until their last open answer is done.
        self._doors.close()
        api, runners = keepers[len(self._runners) :], keepers[: len(self._runners)]
        for seat in self._api:
            seat.leave(signal.SIGTERM)
        await _first(_all(api), stop.again.wait(), timeout_s=SHORT_DRAIN_S)
        if not (stop.again.is_set() or all(keeper.done() for keeper in api)):
            say(f"stopping: open answers have {limit_s:g} s to end; Ctrl-C again stops at once")
            await _first(_all(api), stop.again.wait(), timeout_s=limit_s + API_GRACE_S)
        if not stop.again.is_set():
            for seat in self._runners:
                seat.leave(signal.SIGTERM)
            await _first(_all(runners), stop.again.wait(), timeout_s=RUNNER_GRACE_S)

    async def _end(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        for seat in self._seats:
            seat.kill()
        await asyncio.wait(keepers, timeout=KILL_GRACE_S)
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        for probe in self._probes:
            await probe.close()
        self._news.close()

    def _runner_seat(self, place: int, plan: ModelPlan) -> Seat:
        # Short, because the path of a unix socket is.
        path = self._folder / f"r{place}.sock"
        listening = listen_unix(path)
        self._unix.append(listening)
        probe = ModelProbe(path, plan.runner_name)
        self._probes.append(probe)
        arguments = [
            SERVICE,
            *("--runner-name", plan.runner_name),
            *("--fd", str(listening.fileno())),
            *("--working-dir", os.fspath(self._folder)),
            *("--worker-id", "1"),
            "--no-access-log",
        ]
        environment = {**self._environment, **worker_env(plan)}
        return Seat(
            plan.name,
            Command("runner", arguments, environment, listening.fileno()),
            probe,
            nursery=self._nursery,
            down_note=self._folder / f"{plan.runner_name}.down",
            news=True,
            # One model's download is no reason to take the others away.
            patient=plan.missing and len(self._resolved.models) > 1,
            teller=self._news,
        )

    def _api_seat(self, number: int) -> Seat:
        runner_map = {
            plan.runner_name: (self._folder / f"r{place}.sock").as_uri()
            for place, plan in enumerate(self._resolved.models)
        }
        arguments = [
            SERVICE,
            *("--fd", str(self._doors.http.fileno())),
            *("--runner-map", json.dumps(runner_map)),
            *("--working-dir", os.fspath(self._folder)),
            *("--worker-id", str(number + 1)),
            *("--backlog", str(BACKLOG)),
        ]
        return Seat(
            "api" if self._resolved.server.api_workers == 1 else f"api {number + 1}",
            Command("api", arguments, self._environment, self._doors.http.fileno()),
            file_probe(self._folder),
            nursery=self._nursery,
        )


def check_weights(models: Sequence[ModelPlan]) -> None:
    """Raises StartError for engines that are not installed, and for weights that cannot be loaded
    or are too large for their devices, before any process starts. Weights that are yet to be
    imported are judged by their runners."""
    from .fit import check_all
    from .registry import load_family

    for plan in models:
        load_family(plan).check_installed(plan)
    here = [plan for plan in models if not plan.missing]
    for plan in here:
        load_family(plan).check_weights(plan)
    check_all(here)


def check_store(models: Sequence[ModelPlan]) -> None:
    """Raises WeightsError where something is to be imported, and cannot be kept or fetched."""
    missing = [plan for plan in models if plan.missing]
    if not missing:
        return
    try:
        try_store(bentoml_home())
    except OSError as error:
        raise WeightsError(
            f"{missing[0].name}: its weights are to be imported, and {bentoml_home()} cannot be "
            f"written ({error.strerror or error}); name another folder with BENTOML_HOME, or run "
            f"`open-llm-server import {missing[0].name}` as a user who may write there"
        ) from error
    from .store.importing import refuse_offline

    for plan in missing:
        refuse_offline(plan)


def check_tls(resolved: Resolved) -> None:
    server = resolved.server
    if not server.tls_cert:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(
            server.tls_cert, server.tls_key, lambda: server.tls_key_password or ""
        )
        if server.tls_ca:
            context.load_verify_locations(server.tls_ca)
    except (OSError, ValueError) as error:
        raise StartError(
            f"the TLS files do not work ({error}); give a PEM certificate chain with --tls-cert "
            "and its private key with --tls-key"
        ) from error


def _common_environment(resolved_file: Path, folder: Path) -> dict[str, str]:
    """The person's environment; what was merged from it is in the file, secrets included."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("OPEN_LLM_")
    }
    metrics = folder / "metrics"
    metrics.mkdir(mode=0o700)
    environment |= {
        VARIABLE: os.fspath(resolved_file),
        "BENTOML_DO_NOT_TRACK": "True",
        "PROMETHEUS_MULTIPROC_DIR": os.fspath(metrics),
    }
    try:
        make_store(bentoml_home())
    except OSError:
        # BentoML makes its folders at import; in a read-only container it would fail there.
        environment["BENTOML_HOME"] = os.fspath(folder / "bentoml")
    return environment


def _hear(stop: _Stop, lifeline: int | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.ask)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup leaves it
        loop.add_signal_handler(signal.SIGHUP, stop.ask)
    if lifeline is not None:

        def ended() -> None:
            loop.remove_reader(lifeline)
            stop.ask()

        loop.add_reader(lifeline, ended)


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)


async def _first(*things: object, timeout_s: float | None = None) -> None:
    """Waits for the first of `things` (or the time) and raises what a finished one raised.

    Tasks go on; coroutines that are not done are dropped.
    """
    own = [asyncio.ensure_future(thing) for thing in things if asyncio.iscoroutine(thing)]
    tasks = [thing for thing in things if isinstance(thing, asyncio.Task)]
    try:
        done, _ = await asyncio.wait(
            [*own, *tasks], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
    finally:
        for task in own:
            task.cancel()


def main(arguments: Sequence[str]) -> int:
    """`child.py supervisor PID RESOLVED REPORT_FD`: how `start()` runs a server.

    Standard input is the lifeline. RESOLVED is removed once it is read.
    """
    path, descriptor = arguments
    channel = os.fdopen(int(descriptor), "w")

    def report(news: Mapping[str, object]) -> None:
        # Who started this may be gone: then nobody needs the news.
        with contextlib.suppress(OSError), channel:
            channel.write(json.dumps(news))

    try:
        resolved = Resolved.load(path)
        Path(path).unlink(missing_ok=True)
        return run(resolved, report=report, lifeline=sys.stdin.fileno())
    except OpenLLMError as error:
        say(f"error: {error.message}")
        return getattr(error, "exit_code", 1)
