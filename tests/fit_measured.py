"""What engines really take of memory: `python -m fit_measured KIND CASE` prints it in bytes.

A process of its own for each case, so that nothing of one is left for the next. It loads a model,
fills all its slots to the end, lets slots copy from each other, scores a prompt and makes an
embedding.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from open_llm_server.engine.base import Engine

HERE = Path(__file__).resolve().parent
EVERY_S = 0.002
ANONYMOUS = ("RssAnon", "RssShmem")
SCORED = 300


@dataclass(frozen=True)
class Case:
    path: str
    context: int
    slots: int
    dtype: str = ""
    model_type: str = ""


def measure(kind: str, case: Case, *, timeout_s: float = 300) -> int:
    """Bytes that `case` took at its peak: what must stay in memory, without libraries' pages."""
    done = subprocess.run(
        [sys.executable, "-m", "fit_measured", kind, json.dumps(asdict(case))],
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return int(done.stdout.splitlines()[-1])


class Peak:
    """Looks at this process again and again, until it is asked for the most it saw."""

    def __init__(self) -> None:
        self._most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            self._most = max(self._most, anonymous_bytes())


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(ANONYMOUS))


def mapped_bytes(path: str) -> int:
    """Resident pages of the weights' files, which an engine computes with where they lie."""
    total, wanted = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if not line.split()[0].endswith(":"):
            wanted = os.path.realpath(path) in line
        elif wanted and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def run(kind: str, case: Case) -> int:
    peak = Peak()
    try:
        (_run_llama if kind == "llama" else _run_torch)(case)
    finally:
        most = peak.stop()
    return most + mapped_bytes(case.path)


def _run_llama(case: Case) -> None:
    from open_llm_server.engine.llama_cpp import LlamaCppEngine

    engine = LlamaCppEngine.load(
        Path(case.path), context_length=case.context, slots=case.slots, threads=1
    )
    _work(engine, case)


def _run_torch(case: Case) -> None:
    from open_llm_server.engine.torch_encoder import EncoderEngine
    from open_llm_server.engine.torch_engine import TorchEngine

    types = (case.model_type,)
    if case.model_type == "bert":
        encoder = EncoderEngine.load(
            Path(case.path),
            model_types=types,
            context_length=None,
            slots=case.slots,
            threads=1,
            dtype=case.dtype,
        )
        encoder.embed([_tokens(encoder.limits.context_length - 2)] * 16)
        return
    engine = TorchEngine.load(
        Path(case.path),
        model_types=types,
        context_length=case.context,
        slots=case.slots,
        threads=1,
        dtype=case.dtype,
    )
    _work(engine, case)


def _work(engine: Engine, case: Case) -> None:
    from open_llm_server.engine.base import Batch, Copy, Draw, Row

    length = case.context - 4
    suffix = engine.limits.prompt_suffix
    for slot in range(case.slots):
        if suffix:  # the encoder reads a prompt whole
            tokens = [*_tokens(length - len(suffix)), *suffix]
            engine.step(Batch(rows=[Row(slot, tokens, 0, Draw())]))
            continue
        for start in range(0, length, engine.limits.batch_tokens):
            tokens = _tokens(min(engine.limits.batch_tokens, length - start))
            engine.step(Batch(rows=[Row(slot, tokens, start, Draw())]))
    for at in range(length, case.context - 1):
        engine.step(Batch(rows=[Row(slot, [7], at, Draw()) for slot in range(case.slots)]))
    if case.slots > 1 and not suffix:
        engine.step(Batch(copies=[Copy(0, 1, length)]))
    if not suffix:
        engine.forget(0)
        tokens = _tokens(min(SCORED, length))
        engine.step(Batch(rows=[Row(0, tokens, 0, None, targets=tokens[1:])]))
    engine.embed([_tokens(length - 2)])


def _tokens(count: int) -> list[int]:
    return [5 + place % 200 for place in range(count)]


if __name__ == "__main__":
    print(run(sys.argv[1], Case(**json.loads(sys.argv[2]))))  # noqa: T201  # the answer
