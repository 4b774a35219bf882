"""Takes a look in a child process, and says in words how that ended. `doctor_child` is the child.

For what may crash, hang or take the process with it. Knows nothing of what is looked at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .config.machine import usable_cores
from .doctor_environment import child_environment
from .doctor_finding import Finding, way_out_of
from .supervisor_seat import how_it_ended

CHILD = Path(__file__).with_name("doctor_child.py")
LIMIT_S = 60.0
WORDS = 120
"""Characters of a child's last words that are passed on."""

_asking: dict[object, subprocess.Popen[bytes] | None] = {}
"""The calls of `ask` that go on, each with its child."""
_change = threading.Condition()


@dataclass(frozen=True)
class Answer:
    """What a child found until it ended."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None
    """How it ended, if not well."""
    died_of: str = ""
    """The name of the signal that ended it."""
    hung: bool = False
    do: str = ""
    """What helps where no child could be started, so that nothing was looked at."""

    @property
    def how(self) -> str:
        """How it ended, as the end of a sentence about what it did."""
        return f"its process {self.fault}" if self.died_of or self.hung else self.fault or ""

    def untried(self, subject: str) -> Finding:
        """Of what no child could be started for."""
        return Finding("warning", subject, f"not looked at: {self.fault}", self.do)


def ask(look: str, *arguments: str, limit_s: float = LIMIT_S) -> Answer:
    """Takes `look`, one of `doctor_child.LOOKS`, within `limit_s`."""
    command = [sys.executable, os.fspath(CHILD), str(os.getpid()), look, *arguments]
    asking = object()
    with _change:
        _asking[asking] = None
    try:
        with tempfile.TemporaryDirectory(prefix="open-llm-doctor-") as folder:
            try:
                return _ask(asking, command, folder, limit_s)
            except OSError:
                # The usual way takes an open file, and there may be none left.
                Path(folder).rmdir()
                raise
    except OSError as error:
        fault = f"no process could be started: {error.strerror or error}"
        return Answer(fault=fault, do=way_out_of(error) or "look at what this user may start")
    finally:
        with _change:
            del _asking[asking]
            _change.notify_all()


def end_all(*, wait_s: float = 5.0) -> None:
    """Ends all children, and waits until their folders are gone: for who leaves early."""

    def are_gone() -> bool:
        for process in filter(None, _asking.values()):
            process.kill()
        return not _asking

    with _change:
        _change.wait_for(are_gone, timeout=wait_s)


def _ask(asking: object, command: list[str], folder: str, limit_s: float) -> Answer:
    environment = child_environment(threads=usable_cores(), folder=folder)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    ) as process:
        with _change:
            _asking[asking] = process
            _change.notify_all()
        try:
            said, stderr = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            process.kill()
            fault = f"was not done after {limit_s:g} s"
            return Answer(facts_of(error.stdout or b""), fault, hung=True)
    facts = facts_of(said)
    done = facts.pop("done", False)
    return Answer(facts, *fault_of(process.returncode, stderr, done=done))


def facts_of(said: bytes) -> dict[str, Any]:
    """What the lines of a child say together; lines of others' are passed over."""
    facts: dict[str, Any] = {}
    for line in said.splitlines():
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(told, dict):
            facts |= told
    return facts


def fault_of(code: int, stderr: bytes, *, done: bool) -> tuple[str | None, str]:
    """How a child ended, for people, and the signal it died of; `None` if it ended well, which is
    with `done` as its last word: what it imports may end it with 0."""
    if code == 0:
        return (None if done else "its process ended without an answer"), ""
    if code < 0:
        how = how_it_ended(code)
        return f"was ended {how}", how.rpartition(" ")[2]
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    if not lines:
        return f"its process ended {how_it_ended(code)}, without a word", ""
    return textwrap.shorten(lines[-1], WORDS, placeholder=" ..."), ""
