"""`start()`: a server from Python, in processes of its own, that lives as long as the script."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn

from .config.merge import resolve
from .config.resolved import Resolved
from .errors import ConfigurationError, OpenLLMError, StartError, tree
from .supervisor_process import CHILD

READY_WITHIN_S = 600.0
_STOP_GRACE_S = 15.0
"""More than the supervisor's own limits, drain limit not counted."""


class Server:
    """A running server; `with` stops it at the end."""

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        url: str,
        drain_timeout_s: float,
        grpc_url: str | None = None,
    ) -> None:
        self._popen = popen
        self._drain_timeout_s = drain_timeout_s
        self._owner = os.getpid()
        self.url = url
        """Where HTTP is spoken, such as `http://127.0.0.1:5000`; with `grpc`, its probes."""
        self.grpc_url = grpc_url
        """Where gRPC is spoken, such as `grpc://127.0.0.1:5001`; `None`: nowhere."""
        atexit.register(self._at_exit)

    @property
    def pid(self) -> int:
        """Process id of the supervisor; SIGTERM to it stops the server."""
        return self._popen.pid

    def stop(self) -> None:
        """Lets open answers end (within `drain_timeout_s`), then ends the server."""
        atexit.unregister(self._at_exit)
        _stop(self._popen, self._drain_timeout_s)

    def wait(self) -> int:
        """Returns the server's exit code once it has ended; Ctrl-C ends it."""
        try:
            return self._popen.wait()
        except KeyboardInterrupt:
            self.stop()
            return self._popen.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Server({self.url!r}, pid={self.pid})"

    def _at_exit(self) -> None:
        """A script that only starts a server goes on serving; one that failed does not."""
        if os.getpid() != self._owner:  # a fork of the script
            return
        failed = getattr(sys, "last_value", None) is not None
        interactive = hasattr(sys, "ps1") or sys.flags.interactive
        if failed or interactive:
            self.stop()
        else:
            self.wait()


def start(
    model: str | Iterable[str] = "tiny",
    *,
    port: int = 5000,
    block: bool = False,
    wait_s: float = READY_WITHIN_S,
    configuration: str | None = None,
    sets: str | Iterable[str] = (),
    devices: str | Iterable[str] = (),
    **config: Any,
) -> Server:
    """Starts a server and returns when every model is ready.

    `model` is what `open-llm-server start` takes, or a list of such; `config` takes the fields of
    the flags (`temperature=0.2`, `host="0.0.0.0"`), `sets` and `devices` what `--set` and
    `--device` take, `port=0` a free port. Once a script has ended without an exception, the
    server goes on until Ctrl-C or SIGTERM; `block=True` waits for that here. Raises StartError
    (ConfigurationError for wrong names or values).
    """
    resolved = resolve(
        _texts("model", model, "tiny"),
        flags={"port": port, **config},
        sets=_texts("sets", sets, "tiny.top_k=3"),
        devices=_texts("devices", devices, "tiny:cpu"),
        configuration=configuration,
    )
    server = _launch(resolved, wait_s)
    if block:
        server.wait()
    return server


def _texts(keyword: str, given: Any, example: str) -> list[str]:
    """One text or several. Raises ConfigurationError for anything else."""
    texts = [given] if isinstance(given, str) or not isinstance(given, Iterable) else [*given]
    if all(isinstance(text, str) for text in texts):
        return texts
    raise ConfigurationError(
        f"keyword {keyword}: want a text such as {example!r}, or a list of them, not {given!r}",
        param=keyword,
    )


def _launch(resolved: Resolved, wait_s: float) -> Server:
    handle, path = tempfile.mkstemp(prefix="open-llm-", suffix=".json")
    os.close(handle)
    resolved.save(path)
    reader, writer = os.pipe()
    try:
        popen = subprocess.Popen(
            [
                *(sys.executable, os.fspath(CHILD), "supervisor", str(os.getpid())),
                *(path, str(writer)),
            ],
            stdin=subprocess.PIPE,
            pass_fds=(writer,),
            # Ctrl-C reaches this process, which then stops the server in order.
            start_new_session=True,
        )
    except BaseException:
        os.close(reader)
        Path(path).unlink(missing_ok=True)
        raise
    finally:
        os.close(writer)
    drain_timeout_s = resolved.server.drain_timeout_s
    try:
        with os.fdopen(reader, "rb") as channel:
            news = _news(channel, popen, wait_s)
    except BaseException:
        _stop(popen, drain_timeout_s)
        raise
    finally:
        Path(path).unlink(missing_ok=True)
    return Server(popen, str(news["url"]), drain_timeout_s, news["grpc_url"])


def _news(channel: IO[bytes], popen: subprocess.Popen[bytes], wait_s: float) -> dict[str, Any]:
    """What the supervisor reports: readiness, or why not."""
    deadline = time.monotonic() + wait_s
    raw = b""
    while True:
        readable, _, _ = select.select([channel], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise StartError(
                f"the server was not ready within {wait_s:g} s; give it longer with wait_s"
            )
        chunk = os.read(channel.fileno(), 65_536)
        if not chunk:
            break
        raw += chunk
    if not raw:
        raise StartError(
            f"the server ended before it was ready, with exit code {popen.wait()}; "
            "what it wrote to stderr says why"
        )
    news: dict[str, Any] = json.loads(raw)
    if "error" in news:
        _raise(str(news["code"]), str(news["error"]))
    return news


def _raise(code: str, message: str) -> NoReturn:
    kinds: dict[str, type[OpenLLMError]] = {kind.code: kind for kind in tree(StartError)}
    raise kinds.get(code, StartError)(message)


def _stop(popen: subprocess.Popen[bytes], drain_timeout_s: float) -> None:
    if popen.poll() is None:
        popen.send_signal(signal.SIGTERM)
        try:
            popen.wait(drain_timeout_s + _STOP_GRACE_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            popen.kill()
    popen.wait()
    if popen.stdin:
        with contextlib.suppress(OSError):
            popen.stdin.close()
