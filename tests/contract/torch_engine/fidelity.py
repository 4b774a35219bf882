"""What transformers computes, to hold our engine against, and a loop that runs jobs on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import checkpoints
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from open_llm_server.engine.base import Batch, Draw, Score
from open_llm_server.engine.job import Event, Finished, Generated, Job, Scored
from open_llm_server.engine.scheduler import Scheduler
from open_llm_server.engine.torch_engine import TorchEngine

SLOTS = 3
STEP_TOKENS = 24
NEW_TOKENS = 16
"""Longest answer that tests ask for."""


@dataclass(frozen=True)
class Kind:
    """One architecture, or a variant of it that is computed in another way."""

    make: Callable[..., Path]
    config: dict[str, Any] = field(default_factory=dict)


KINDS: dict[str, Kind] = {
    "t5": Kind(checkpoints.make_t5),
    "t5-relu-tied": Kind(
        checkpoints.make_t5,
        {
            "feed_forward_proj": "relu",
            "tie_word_embeddings": True,
            "scale_decoder_outputs": True,
        },
    ),
    "bloom": Kind(checkpoints.make_bloom),
    "bloom-normed-residual": Kind(
        checkpoints.make_bloom,
        {
            "apply_residual_connection_post_layernorm": True,
            "tie_word_embeddings": False,
            "seed": 1,
        },
    ),
    "gpt-neox": Kind(checkpoints.make_gpt_neox),
    "gpt-neox-sequential": Kind(
        checkpoints.make_gpt_neox, {"use_parallel_residual": False, "attention_bias": False}
    ),
    "dolly": Kind(checkpoints.make_dolly),
    "stablelm": Kind(checkpoints.make_stablelm),
    "stablelm-normed-heads": Kind(
        checkpoints.make_stablelm,
        {"qk_layernorm": True, "use_parallel_residual": True, "use_qkv_bias": False},
    ),
    "llama": Kind(checkpoints.make_llama),
}


class Pair:
    """The same checkpoint in transformers and in our engine, both in float32."""

    def __init__(self, folder: Path, **engine: Any) -> None:
        self.engine = TorchEngine.load(
            folder,
            model_types={"t5", "bloom", "gpt_neox", "stablelm", "llama"},
            **{
                "context_length": 160,
                "slots": SLOTS,
                "threads": 1,  # more only wait for each other in models so small
                "dtype": "float32",
                "batch_tokens": STEP_TOKENS,
                **engine,
            },
        )
        self.encodes = self.engine.limits.whole_prompt
        loader: Any = AutoModelForSeq2SeqLM if self.encodes else AutoModelForCausalLM
        self.model: Any = loader.from_pretrained(folder, dtype=torch.float32).eval()
        self._known: dict[tuple[int, ...], list[int]] = {}

    def prompt(self, text: str) -> list[int]:
        tokens = self.engine.tokenize(text, begin=True, control=False)
        return [*tokens, *self.engine.limits.prompt_suffix]

    def generated(self, prompt: Sequence[int], new_tokens: int = NEW_TOKENS) -> list[int]:
        """Greedy tokens of transformers' `generate`, end token included."""
        key = tuple(prompt)
        if key not in self._known:
            output = self.generate(prompt, max_new_tokens=NEW_TOKENS, do_sample=False)
            self._known[key] = output[0]
        return self._known[key][:new_tokens]

    def generate(self, prompt: Sequence[int], **options: Any) -> list[list[int]]:
        """New tokens of each sequence that `generate` returns."""
        read = list(prompt[:-1]) if self.encodes else list(prompt)
        ids = torch.tensor([read])
        output = self.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return [row[1 if self.encodes else len(read) :].tolist() for row in output]

    @torch.inference_mode()
    def logprobs(self, prompt: Sequence[int], output: Sequence[int]) -> torch.Tensor:
        """Log-probabilities [tokens, vocabulary] of a plain forward pass: for a decoder-only
        model after each token of prompt and output, for an encoder-decoder after each of the
        decoder's."""
        if self.encodes:
            logits = self.model(
                input_ids=torch.tensor([prompt[:-1]]),
                decoder_input_ids=torch.tensor([[prompt[-1], *output]]),
            ).logits
        else:
            logits = self.model(torch.tensor([[*prompt, *output]])).logits
        found: torch.Tensor = logits[0].float().log_softmax(-1)
        return found


@dataclass
class Order:
    """A job and when it comes and goes, in steps."""

    job: Job
    arrives: int = 0
    leaves: int | None = None
    scores: list[Score | None] = field(default_factory=list)
    prompt_scores: list[Score] = field(default_factory=list)
    reason: str = ""

    def take(self, event: Event) -> None:
        match event:
            case Generated(_, _, score):
                self.scores.append(score)
            case Scored(_, scores):
                self.prompt_scores.extend(scores)
            case Finished(_, reason):
                self.reason = reason


def order(
    prompt: Sequence[int],
    *,
    counted: Sequence[int] | None = None,
    max_tokens: int = NEW_TOKENS,
    caller: str = "a",
    arrives: int = 0,
    leaves: int | None = None,
    score_prompt: bool = False,
    **draw: Any,
) -> Order:
    made = replace(Draw(prompt=prompt if counted is None else counted), **draw)
    job = Job(
        caller=caller, prompt=prompt, draw=made, max_tokens=max_tokens, score_prompt=score_prompt
    )
    return Order(job, arrives, leaves)


def search(prompt: Sequence[int], *, beams: int, best: int, arrives: int = 0) -> list[Order]:
    """One beam search and the jobs of its `best` answers."""
    first = order(prompt, counted=prompt[-1:], arrives=arrives, num_beams=beams)
    orders = [first]
    for _ in range(best - 1):
        job = replace(first.job, search=first.job, slots=[], others=[], output=[])
        orders.append(Order(job, arrives))
    return orders


def run(engine: TorchEngine, orders: Sequence[Order]) -> list[Batch]:
    """Steps until all are done; the batches that were evaluated."""
    scheduler = Scheduler(engine.limits)
    for slot in range(engine.limits.slots):
        engine.forget(slot)
    batches: list[Batch] = []
    by_job = {entry.job: entry for entry in orders}
    step = 0
    while True:
        for entry in orders:
            if entry.arrives == step:
                scheduler.add(entry.job)
            if entry.leaves == step and entry.job.state != "new":
                scheduler.finish(entry.job)
        batch = scheduler.plan()
        for event in scheduler.commit(batch, engine.step(batch)):
            by_job[event.job].take(event)
        batches.append(batch)
        step += 1
        if not any(scheduler.jobs()) and all(entry.arrives < step for entry in orders):
            return batches
