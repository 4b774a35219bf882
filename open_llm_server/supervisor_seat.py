"""A place for one worker process that is filled again whenever its process dies.

Owns when to start, what counts as ready, as hung and as hopeless. What is started, and how it
is asked whether it is well, the supervisor decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from .errors import HubUnavailable, StartError
from .supervisor_backoff import Backoff
from .supervisor_logs import LAST_WORDS, PROGRESS, say
from .supervisor_news import News
from .supervisor_process import Command, Nursery, Process

ASK_EVERY_S = 5.0
HUNG_AFTER_S = 30.0
"""A ready worker that gives no sign for so long is replaced: longer than a machine that swaps
keeps an event loop waiting."""
LONGEST_ASK_S = 15.0
"""What one question without an answer counts at most, so that it takes two at least: after this
process was stopped, or the machine slept, every sign is old."""
LOADING_PAUSE_S = 0.1
IMPORTING_PAUSE_S = 0.5
BOOT_S = 5.0
"""A process needs a few seconds from its start to its first answer, loading or not."""

_BEFORE = ('"phase": "resolving"', '"phase": "waiting"')
"""In progress of an import that has brought nothing yet."""

Probe = Callable[[Process], Awaitable[bool]]
"""Whether the worker is ready. Raises while it gives no answer at all."""


class Seat:
    """One worker, for as long as `keep` runs."""

    def __init__(
        self,
        label: str,
        command: Command,
        probe: Probe,
        *,
        nursery: Nursery,
        down_note: Path | None = None,
        news: bool = False,
        patient: bool = False,
        teller: News | None = None,
    ) -> None:
        self.label = label
        self.command = command
        self.ready = asyncio.Event()
        """Set when the worker was ready for the first time."""
        self.process: Process | None = None
        self._probe = probe
        self._nursery = nursery
        self._down_note = down_note
        """A file that stands while the worker is not worth asking."""
        self._news = news
        """Whether its first readiness is worth a line."""
        self._patient = patient
        """Whether others go on without it, while its weights are on their way or when they do not
        come."""
        self._teller = teller or News()
        self._fetching = False
        """Whether an import has begun to bring weights."""
        self.failed = asyncio.Event()
        """Set when nobody tries any more to start it."""
        self.reason = ""
        self._backoff = Backoff()
        self._ready_at: float | None = None
        self._leaving = asyncio.Event()

    async def keep(self) -> None:
        """Returns after `leave`. Raises StartError when the first start fails."""
        while not self._leaving.is_set():
            started_at = time.monotonic()
            self._ready_at = None
            try:
                self.process = process = self._nursery.start(self.command, self._show)
            except OSError as error:  # no memory or descriptors for it just now
                await self._recover_from(error)
                continue
            watch = asyncio.create_task(self._watch(process, started_at))
            code = await asyncio.shield(process.exited)
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            process.kill_group()
            self._teller.over(self.label)
            if not self._leaving.is_set():
                await self._recover(process, code)

    def leave(self, number: signal.Signals) -> None:
        """Tells the worker to end, and starts no other."""
        self._leaving.set()
        if self.process is not None:
            self.process.send(number)

    def kill(self) -> None:
        self._leaving.set()
        if self.process is not None:
            self.process.kill_group()

    async def _recover(self, process: Process, code: int) -> None:
        passes = code < 0 or code == HubUnavailable.exit_code
        if not (self.ready.is_set() or (self._patient and passes)):
            why = _why(self.label, process, code)
            if self._patient and self._fetching:
                await self._give_up(why)
                return
            raise StartError(why)
        served_s = 0.0 if self._ready_at is None else time.monotonic() - self._ready_at
        delay_s = self._backoff.died(served_s=served_s)
        when = f"again in {delay_s:.0f} s" if delay_s else "again"
        say(f"{_why(self.label, process, code)}\n{self.label}: starting it {when}")
        if delay_s:
            self._note_down(delay_s + BOOT_S, f"it ended {how_it_ended(code)}")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), delay_s)

    async def _give_up(self, why: str) -> None:
        """The server has served others for a while: what is wrong with this one is not theirs."""
        self._note_down(None, why)
        say(f"{why}\n{self.label}: is given up, the other models go on; start again to retry")
        self.reason = why
        self.failed.set()
        await self._leaving.wait()

    async def _recover_from(self, error: OSError) -> None:
        """The machine could not start a process."""
        if not self.ready.is_set():
            raise StartError(
                f"{self.label}: no process could be started ({error.strerror}); free some memory "
                "or raise the limits of this user"
            ) from error
        delay_s = max(1.0, self._backoff.died(served_s=0.0))
        say(f"{self.label}: could not be started ({error.strerror}); again in {delay_s:.0f} s")
        self._note_down(delay_s + BOOT_S, "the machine could not start it")
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), delay_s)

    async def _watch(self, process: Process, started_at: float) -> None:
        """Until the worker is ready, then for as long as it lives."""
        # Libraries may lose the cancellation that ends this; a dead process does so too.
        while not await self._is_ready(process):
            if process.exited.done():
                return
            await asyncio.sleep(IMPORTING_PAUSE_S if self._fetching else LOADING_PAUSE_S)
        self._ready_at = time.monotonic()
        self._fetching = False
        self._teller.over(self.label)
        if self._down_note is not None:
            self._down_note.unlink(missing_ok=True)
        if self.ready.is_set() or self._news:
            word = "ready again" if self.ready.is_set() else "ready"
            say(f"{self.label}: {word} in {self._ready_at - started_at:.1f} s")
        self.ready.set()
        silent_s, asked_at = 0.0, self._ready_at
        while silent_s < HUNG_AFTER_S:
            await asyncio.sleep(ASK_EVERY_S)
            answered = await self._answers(process)
            now = time.monotonic()
            silent_s = 0.0 if answered else silent_s + min(now - asked_at, LONGEST_ASK_S)
            asked_at = now
            if process.exited.done():
                return
        say(f"{self.label}: gave no sign for {HUNG_AFTER_S:.0f} s; it is replaced")
        process.kill_group()

    async def _is_ready(self, process: Process) -> bool:
        try:
            return await self._probe(process)
        except Exception:
            return False

    async def _answers(self, process: Process) -> bool:
        """Whether it gives any sign, ready or not."""
        try:
            await self._probe(process)
        except Exception:
            return False
        return True

    def _note_down(self, left_s: float | None, reason: str) -> None:
        """`None`: for as long as this server runs."""
        if self._down_note is not None:
            note = {"until": left_s and time.time() + left_s, "reason": reason}
            fresh = self._down_note.with_suffix(".new")
            # Without the note requests wait a little longer for their error, no more.
            with contextlib.suppress(OSError):
                fresh.write_text(json.dumps(note))
                fresh.replace(self._down_note)

    def _show(self, line: str) -> None:
        self._fetching = self._fetching or (
            line.startswith(PROGRESS) and not any(word in line for word in _BEFORE)
        )
        self._teller.show(self.label, line)


def how_it_ended(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"by signal {signal.Signals(-code).name}"
    return f"by signal {-code}"


def _why(label: str, process: Process, code: int) -> str:
    """Its own last words if it left any, else all that it wrote and nobody saw."""
    lines = process.output.unseen()
    for line in reversed(lines):
        if line.startswith(LAST_WORDS):
            return line.removeprefix(LAST_WORDS)
    head = f"{label}: its process ended {how_it_ended(code)}"
    return "\n".join([head, *(f"{label}:   {line}" for line in lines)])
