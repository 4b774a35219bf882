"""Runs a chat template in a child process: starts it, sets its clock, ends it, replaces it.

Owns the process and the pipes. Knows nothing of what the texts mean. A template is a program
that came with some weights, and the sandbox of a template language stops neither endless loops
nor exhausted memory; ending a process stops both.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

RENDER_LIMIT_S = 2.0
START_LIMIT_S = 30.0
"""A machine that loads several models at once starts a Python slowly."""
ANSWER_BYTES = 1024 * 1024
ANSWER_PER_INPUT_BYTE = 256
"""More than the child's own limit on its texts: passed only by a child that is not ours anymore."""
_CLOSED = "the model is being closed"

Conversation = Sequence[Mapping[str, str]]


class TemplateRefused(Exception):
    """The template refused a conversation, in its own words."""


class TemplateBroken(Exception):
    """The template failed, or did not keep within its limits."""


class TemplateProcess:
    """One template in one child process, which starts when it is first needed.

    Renders one request at a time, in a thread of its own, so it may be used from any event loop.
    """

    def __init__(
        self,
        template: str,
        variables: Mapping[str, str],
        *,
        render_limit_s: float = RENDER_LIMIT_S,
    ) -> None:
        self._load = _encode({"template": template, "variables": dict(variables)})
        self._render_limit_s = render_limit_s
        self._child: _Child | None = None
        self._closed = False
        # The thread that started a child must outlive it, and it does: the pool keeps its thread.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="template")

    @property
    def pid(self) -> int | None:
        """Of the child, if there is one now."""
        return self._child.pid if self._child else None

    async def render(self, conversations: Sequence[Conversation]) -> list[str]:
        """One text for each conversation.

        Raises TemplateRefused, TemplateBroken, UnicodeEncodeError when a message holds half a
        surrogate pair, and OSError when there can be no process (now, or after `close`).
        """
        line = _encode({"conversations": conversations})
        if self._closed:
            raise OSError(_CLOSED)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._render, line, len(conversations))
        except (TemplateBroken, OSError):
            if self._closed:
                raise OSError(_CLOSED) from None
            raise

    async def close(self) -> None:
        """Ends the child, in the middle of a render if need be. Nothing can be rendered after."""
        if self._closed:
            return
        self._closed = True
        if child := self._child:
            child.kill()
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        finally:
            self._thread.shutdown(wait=False)

    def _render(self, line: bytes, count: int) -> list[str]:
        try:
            return self._texts(line, count)
        except _Ended:
            # It may have died long before this request came.
            self._end()
        try:
            return self._texts(line, count)
        except _Ended as error:
            self._end()
            raise TemplateBroken(str(error)) from None

    def _texts(self, line: bytes, count: int) -> list[str]:
        try:
            return _parse(self._loaded_child().ask(line, self._render_limit_s), count)
        except _TooSlow:
            self._end()
            raise TemplateBroken(f"it was not done after {self._render_limit_s:g} s") from None

    def _loaded_child(self) -> _Child:
        if self._closed:
            raise OSError(_CLOSED)
        if self._child is None:
            self._child = child = _Child()
            try:
                child.wait_ready()
                _parse(child.ask(self._load, self._render_limit_s), 0)
            except (TemplateBroken, OSError):
                self._end()
                raise
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child:
            child.end()


class _Ended(Exception):
    """The child is gone, or speaks nonsense."""


class _TooSlow(Exception):
    """The child did not answer in time."""


class _Child:
    """A running child and its two pipes. Blocks, but never longer than it is told."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            _command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=_environment(),
            # Away from the terminal: Ctrl-C is the server's to handle, requests go on meanwhile.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> None:
        try:
            self._receive(time.monotonic() + START_LIMIT_S, ANSWER_BYTES)
        except (_Ended, _TooSlow):
            raise OSError("the process that renders chat templates does not start") from None

    def ask(self, line: bytes, limit_s: float) -> bytes:
        deadline = time.monotonic() + limit_s
        self._send(line, deadline)
        return self._receive(deadline, ANSWER_BYTES + ANSWER_PER_INPUT_BYTE * len(line))

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _send(self, line: bytes, deadline: float) -> None:
        rest = memoryview(line)
        while rest:
            _wait(self._in, select.POLLOUT, deadline)
            try:
                rest = rest[os.write(self._in, rest) :]
            except BlockingIOError:
                continue
            except OSError:
                raise self._ended() from None

    def _receive(self, deadline: float, limit_bytes: int) -> bytes:
        pieces = []
        size = 0
        while size <= limit_bytes:
            _wait(self._out, select.POLLIN, deadline)
            piece = os.read(self._out, 1024 * 1024)
            if not piece:
                raise self._ended()
            pieces.append(piece)
            size += len(piece)
            if piece.endswith(b"\n"):
                return b"".join(pieces)
        raise _Ended("its process does not answer as it should")

    def _ended(self) -> _Ended:
        self._process.kill()
        status = self._process.wait()
        return _Ended(f"its process ended with status {status}")


def _wait(fd: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(fd, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise _TooSlow


def _encode(request: Mapping[str, Any]) -> bytes:
    return json.dumps(request, ensure_ascii=False).encode() + b"\n"


def _parse(line: bytes, count: int) -> list[str]:
    """Reads an answer as carefully as a stranger's: the child runs a stranger's program."""
    try:
        answer = json.loads(line)
    except ValueError:
        raise _Ended("its process does not answer as it should") from None
    if isinstance(answer, dict):
        if isinstance(words := answer.get("refused"), str):
            raise TemplateRefused(words)
        if isinstance(words := answer.get("broken"), str):
            raise TemplateBroken(words)
        texts = answer.get("texts")
        if isinstance(texts, list) and [type(text) for text in texts] == [str] * count:
            return texts
    raise _Ended("its process does not answer as it should")


def _command() -> list[str]:
    """Isolated (-I) and without site packages (-S): no file on some path can join in."""
    folders = []
    for name in ("jinja2", "markupsafe"):
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise OSError(f"{name} is not installed; run: pip install jinja2")
        folders.append(str(Path(found.origin).resolve().parents[1]))
    script = Path(__file__).with_name("template_child.py")
    return [sys.executable, "-I", "-S", str(script), *dict.fromkeys(folders)]


def _environment() -> dict[str, str]:
    """What Python itself may need to start, and the time zone; no keys, no tokens."""
    names = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")
    return {name: os.environ[name] for name in names if name in os.environ}
