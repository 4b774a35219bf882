"""Takes a look in a child process, and says in words how that ended. `doctor_child` is the child.

For what may crash, hang or take the process with it. Knows nothing of what is looked at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .config.machine import usable_cores
from .doctor_environment import child_environment
from .supervisor_seat import how_it_ended

CHILD = Path(__file__).with_name("doctor_child.py")
LIMIT_S = 60.0
WORDS = 300
"""Characters of a child's last words that are passed on."""


@dataclass(frozen=True)
class Answer:
    """What a child found until it ended."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None
    """How it ended, if not well."""
    died_of: str = ""
    """The name of the signal that ended it."""
    hung: bool = False

    @property
    def how(self) -> str:
        """How it ended, as the end of a sentence about what it did."""
        return f"its process {self.fault}" if self.died_of or self.hung else self.fault or ""


def ask(look: str, *arguments: str, limit_s: float = LIMIT_S) -> Answer:
    """Takes `look`, one of `doctor_child.LOOKS`, within `limit_s`."""
    with tempfile.TemporaryDirectory(prefix="open-llm-doctor-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, os.fspath(CHILD), str(os.getpid()), look, *arguments],
                env=child_environment(threads=usable_cores(), folder=folder),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=limit_s,
            )
        except subprocess.TimeoutExpired as error:
            fault = f"was not done after {limit_s:g} s"
            return Answer(facts_of(error.stdout or b""), fault, hung=True)
        except OSError as error:
            return Answer(fault=f"could not be started: {error.strerror or error}")
    return Answer(facts_of(done.stdout), *fault_of(done.returncode, done.stderr))


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


def fault_of(code: int, stderr: bytes) -> tuple[str | None, str]:
    """How a child ended, for people, and the signal it died of; `None` if it ended well."""
    if code == 0:
        return None, ""
    if code < 0:
        how = how_it_ended(code)
        return f"was ended {how}", how.rpartition(" ")[2]
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return (lines[-1][:WORDS] if lines else f"ended {how_it_ended(code)}, without a word"), ""
