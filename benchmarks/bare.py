"""The yardstick: llama.cpp in a bare loop, without our engine, in a process of its own.

Reads one order a line as JSON, answers with one line: `{"streams", "rounds": [[tokens, …], …],
"seeds", "new_tokens"}` -> `{"tokens", "seconds", "first_s"}`. A round starts all its streams at
once, reads their prompts in full batches, and chooses one token for each of them per decode.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .prompts import NEW_TOKENS, SAMPLING, Prompt

BATCH_TOKENS = 512
CONTEXT = 1024


class Loop:
    """One context with `streams` sequences."""

    def __init__(self, path: Path, *, streams: int, threads: int, unified: bool) -> None:
        import llama_cpp.llama_cpp as native

        self._native: Any = native
        self._quiet = native.llama_log_callback(lambda *_: None)
        native.llama_log_set(self._quiet, None)
        native.llama_backend_init()
        self._model = native.llama_model_load_from_file(
            str(path).encode(), native.llama_model_default_params()
        )
        parameters = native.llama_context_default_params()
        parameters.n_ctx = CONTEXT * streams
        parameters.n_seq_max = streams
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.kv_unified = unified
        self._context = native.llama_init_from_model(self._model, parameters)
        self._memory = native.llama_get_memory(self._context)
        self._batch = native.llama_batch_init(BATCH_TOKENS, 0, 1)

    def round(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], new: int
    ) -> tuple[int, list[float]]:
        """One answer to each prompt; their number of tokens, and each one's wait for its first."""
        native, started = self._native, time.perf_counter()
        for stream in range(len(prompts)):
            native.llama_memory_seq_rm(self._memory, stream, -1, -1)
        chains = [self._chain(seed) for seed in seeds]
        last: list[int] = []
        first_s: list[float] = []
        per_decode = max(1, BATCH_TOKENS // max(map(len, prompts)))
        for begin in range(0, len(prompts), per_decode):
            group = range(begin, min(begin + per_decode, len(prompts)))
            self._decode([(stream, 0, prompts[stream]) for stream in group])
            end = -1
            for stream in group:
                end += len(prompts[stream])
                last.append(native.llama_sampler_sample(chains[stream], self._context, end))
                first_s.append(time.perf_counter() - started)
        for step in range(new - 1):
            self._decode([(s, len(prompts[s]) + step, [last[s]]) for s in range(len(prompts))])
            for stream, chain in enumerate(chains):
                last[stream] = native.llama_sampler_sample(chain, self._context, stream)
        for chain in chains:
            native.llama_sampler_free(chain)
        return new * len(prompts), first_s

    def _chain(self, seed: int) -> Any:
        native = self._native
        chain = native.llama_sampler_chain_init(native.llama_sampler_chain_default_params())
        for part in (
            native.llama_sampler_init_top_k(int(SAMPLING["top_k"])),
            native.llama_sampler_init_top_p(SAMPLING["top_p"], 1),
            native.llama_sampler_init_min_p(SAMPLING["min_p"], 1),
            native.llama_sampler_init_temp(SAMPLING["temperature"]),
            native.llama_sampler_init_dist(seed),
        ):
            native.llama_sampler_chain_add(chain, part)
        return chain

    def _decode(self, rows: Sequence[tuple[int, int, Sequence[int]]]) -> None:
        batch, at = self._batch, 0
        for stream, start, tokens in rows:
            for place, token in enumerate(tokens):
                batch.token[at] = token
                batch.pos[at] = start + place
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = stream
                batch.logits[at] = 0
                at += 1
            batch.logits[at - 1] = 1
        batch.n_tokens = at
        code = self._native.llama_decode(self._context, batch)
        if code:
            raise RuntimeError(f"llama_decode gave {code}")


class Bare:
    """The process, from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def measure(self, rounds: Sequence[Sequence[Prompt]]) -> dict[str, Any]:
        """`{"tokens", "seconds", "first_s"}` over all rounds."""
        order = {
            "rounds": [[prompt.tokens for prompt in round_] for round_ in rounds],
            "seeds": [[prompt.seed for prompt in round_] for round_ in rounds],
            "new_tokens": NEW_TOKENS,
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the bare loop ended")
        found: dict[str, Any] = json.loads(answer)
        return found


@contextmanager
def bare_loop(path: Path, *, streams: int, threads: int, unified: bool) -> Iterator[Bare]:
    command = [sys.executable, "-m", "benchmarks.bare", str(path)]
    command += ["--streams", str(streams), "--threads", str(threads)]
    process = subprocess.Popen(
        [*command, "--unified"] if unified else command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    with process:
        yield Bare(process)
        assert process.stdin
        process.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--unified", action="store_true")
    chosen = parser.parse_args()
    loop = Loop(
        chosen.model, streams=chosen.streams, threads=chosen.threads, unified=chosen.unified
    )
    for line in sys.stdin:
        order = json.loads(line)
        started, tokens = time.perf_counter(), 0
        first_s: list[float] = []
        for prompts, seeds in zip(order["rounds"], order["seeds"], strict=True):
            made, waits = loop.round(prompts, seeds, order["new_tokens"])
            tokens += made
            first_s += waits
        seconds = time.perf_counter() - started
        print(json.dumps({"tokens": tokens, "seconds": seconds, "first_s": first_s}), flush=True)


if __name__ == "__main__":
    main()
