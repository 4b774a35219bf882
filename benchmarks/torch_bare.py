"""The yardsticks for models on torch, each alone in a process of its own.

`generate` and `batches` are transformers' own loops (the latter its continuous batching),
`ctranslate2` is that library in int8, `engine` is our engine without a server, and `crowded` our
engine beside an idle thread that OpenMP counts. A process reads one
order a line as JSON and answers with one line: `{"prompts": [[token, …], …], "new_tokens"}` ->
`{"tokens", "seconds", "first_s"}`; all prompts are one batch, `first_s` is null where nobody says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

NEW_TOKENS = 64
ROOT = Path(__file__).resolve().parent.parent

Batch = Sequence[Sequence[int]]
Loop = Callable[[Batch, int], tuple[int, float | None]]
"""(prompts of one length, new tokens each) -> (tokens made, seconds to the first or None)."""


@dataclass(frozen=True)
class Place:
    """Where and how a loop computes; the same for all that are compared."""

    path: Path
    threads: int
    device: str = "cpu"
    dtype: str = "bfloat16"
    streams: int = 16
    context: int = 512


def generate(place: Place) -> Loop:
    """`model.generate`, greedy, on a ready-made batch."""
    import torch

    model = _model(place)
    began = first = 0.0

    def timed(_: Any, scores: Any) -> Any:
        nonlocal first
        first = first or time.perf_counter() - began
        return scores

    def loop(prompts: Batch, new: int) -> tuple[int, float | None]:
        nonlocal began, first
        began, first = time.perf_counter(), 0.0
        ids = torch.tensor(prompts, device=model.device)
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                do_sample=False,
                logits_processor=[timed],
            )
        before = 1 if model.config.is_encoder_decoder else ids.shape[1]
        return int(out.shape[0] * (out.shape[1] - before)), first

    return loop


def batches(place: Place) -> Loop:
    """transformers' continuous batching, in this process and without its server."""
    import transformers

    # The library's class says no types.
    make_settings: Any = transformers.GenerationConfig
    model = _model(place)

    def loop(prompts: Batch, new: int) -> tuple[int, float | None]:
        settings = make_settings(
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=-1,
            pad_token_id=0,
            use_cuda_graph=None,
        )
        found = model.generate_batch(
            inputs=[list(prompt) for prompt in prompts],
            generation_config=settings,
            progress_bar=False,
        )
        return sum(len(request.generated_tokens) for request in found.values()), None

    return loop


def ctranslate2(place: Place) -> Loop:
    """CTranslate2's translator on the converted checkpoint, greedy."""
    from tokenizers import Tokenizer

    library = import_module("ctranslate2")  # of the peers' folder, which mypy does not see
    tokenizer = Tokenizer.from_file(str(place.path / "tokenizer.json"))
    translator = library.Translator(
        str(converted(place.path)), device="cpu", compute_type="int8",
        inter_threads=1, intra_threads=place.threads,
    )  # fmt: skip

    def loop(prompts: Batch, new: int) -> tuple[int, float | None]:
        texts = [[tokenizer.id_to_token(token) for token in prompt] for prompt in prompts]
        found = translator.translate_batch(
            texts, beam_size=1, max_decoding_length=new, min_decoding_length=new
        )
        return sum(len(one.hypotheses[0]) for one in found), None

    return loop


def converted(path: Path) -> Path:
    """The checkpoint at `path` in CTranslate2's format and int8, made now if it is not there."""
    target = path.with_name(f"{path.name}-ctranslate2-int8")
    if not target.exists():
        partial = path.with_name(f"{target.name}.{os.getpid()}.part")
        converters = import_module("ctranslate2.converters")
        converters.TransformersConverter(str(path)).convert(str(partial), quantization="int8")
        partial.rename(target)
    return target


def engine(place: Place) -> Loop:
    from .torch_engine import engine_loop

    return engine_loop(place)


def crowded(place: Place) -> Loop:
    """The same, beside a thread that has computed once and sleeps since."""
    import threading

    import torch

    def compute() -> None:
        torch.randn(1024, 1024).sum()
        threading.Event().wait()

    threading.Thread(target=compute, daemon=True).start()
    return engine(place)


KINDS: dict[str, Callable[[Place], Loop]] = {
    "generate": generate,
    "batches": batches,
    "ctranslate2": ctranslate2,
    "engine": engine,
    "crowded": crowded,
}


def _model(place: Place) -> Any:
    import torch
    import transformers

    logging: Any = transformers.logging
    logging.set_verbosity_error()
    torch.set_num_threads(place.threads)
    config = transformers.AutoConfig.from_pretrained(place.path)
    kind: Any = (
        transformers.AutoModelForSeq2SeqLM
        if config.is_encoder_decoder
        else transformers.AutoModelForCausalLM
    )
    model = kind.from_pretrained(place.path, dtype=getattr(torch, place.dtype))
    return model.to(place.device).eval()


@dataclass(frozen=True)
class Measured:
    """One batch, from outside."""

    tokens: int
    seconds: float
    first_s: float | None

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


class Bare:
    """A process, from outside."""

    def __init__(self, kind: str, process: subprocess.Popen[str]) -> None:
        self.kind = kind
        self._process = process

    def measure(self, prompts: Batch, new: int = NEW_TOKENS) -> Measured:
        """Raises RuntimeError when it ended, or made another number of tokens."""
        assert self._process.stdin and self._process.stdout
        order = {"prompts": prompts, "new_tokens": new}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.kind} ended; see above")
        found = Measured(**json.loads(answer))
        if found.tokens != len(prompts) * new:
            raise RuntimeError(
                f"{self.kind} made {found.tokens} tokens, and {len(prompts)} times {new} were due"
            )
        return found


@contextmanager
def bare(kind: str, place: Place, environment: Mapping[str, str]) -> Iterator[Bare]:
    """A process for `kind` of KINDS, with `environment` added to ours."""
    command = [sys.executable, "-m", "benchmarks.torch_bare", kind, str(place.path)]
    command += ["--threads", str(place.threads), "--streams", str(place.streams)]
    command += ["--device", place.device, "--dtype", place.dtype]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, **environment},
    )  # fmt: skip
    with process:
        yield Bare(kind, process)
        assert process.stdin
        process.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    chosen = parser.parse_args()
    # What libraries print is not an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    loop = KINDS[chosen.kind](
        Place(chosen.path, chosen.threads, chosen.device, chosen.dtype, chosen.streams)
    )
    for line in sys.stdin:
        order = json.loads(line)
        started = time.perf_counter()
        tokens, first_s = loop(order["prompts"], order["new_tokens"])
        seconds = time.perf_counter() - started
        print(json.dumps({"tokens": tokens, "seconds": seconds, "first_s": first_s}), file=answers)
        answers.flush()


if __name__ == "__main__":
    main()
