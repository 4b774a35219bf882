"""Each family on torch loads a small checkpoint of its own kind, and answers in its own format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import checkpoints
import pytest
from hosting import ask, chat, end, text
from tokenizers import Tokenizer

from open_llm_server import Registry
from open_llm_server.config.folder import models_folder
from open_llm_server.config.merge import resolve
from open_llm_server.config.resolved import ModelPlan
from open_llm_server.core import EmbedRequest, InfoRequest, Sampling
from open_llm_server.frames import Embeddings, Info, Start
from open_llm_server.host import Host

pytestmark = pytest.mark.weights

QUESTION = "What is the smallest prime?"
BRIEF = Sampling(max_tokens=6, temperature=0)
DIALOGUE = f"A conversation between a user and a helpful assistant.\n\nUser: {QUESTION}\nAssistant:"
TASK = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    f"the request.\n\n### Instruction:\n{QUESTION}\n\n### Response:\n"
)
CHATML = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"

CASES: dict[str, tuple[Callable[[Path], Path], str, int]] = {
    # name: (what makes its checkpoint, what the model reads, tokens beyond that text)
    "flan-t5": (checkpoints.make_t5, QUESTION, 2),
    "bloom": (checkpoints.make_bloom, DIALOGUE, 0),
    "bloomz": (checkpoints.make_bloom, QUESTION, 0),
    "dolly": (checkpoints.make_dolly, TASK, 0),
    "gpt-neox": (checkpoints.make_gpt_neox, DIALOGUE, 0),
    "stablelm": (checkpoints.make_stablelm, CHATML, 0),
    "stablelm-2-chat": (checkpoints.make_stablelm, CHATML, 0),
}
"""The encoder of flan-t5 reads an end token more, and its decoder begins with one."""


def plan_of(spec: str) -> ModelPlan:
    (plan,) = resolve(spec, environ={}, flags={"dtype": "float32", "slots": 2}).models
    return plan


async def load(plan: ModelPlan) -> Host:
    def broken(error: BaseException) -> None:
        raise error

    return await Registry.get(plan.family).load(plan, on_crash=broken)


@pytest.mark.parametrize("name", CASES)
async def test_a_family_chats_in_its_format(name: str, tmp_path: Path) -> None:
    make, wanted, beyond = CASES[name]
    folder = make(tmp_path / "checkpoint")
    plan = plan_of(f"{name}@{folder}")
    host = await load(plan)
    try:
        frames = await ask(host, chat(QUESTION, sampling=BRIEF))
        (info,) = [frame for frame in await ask(host, InfoRequest()) if isinstance(frame, Info)]
        embedded = await ask(host, EmbedRequest(inputs=(QUESTION,)))
    finally:
        await host.close()
    read = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(
        wanted, add_special_tokens=False
    )
    assert frames[0] == Start(prompt_tokens=len(read.ids) + beyond)
    usage = end(frames).usage
    assert usage.completion_tokens == 6 or text(frames) != ""
    facts = info.facts
    assert (facts["engine"], facts["family"], facts["card"]) == ("torch", plan.family, name)
    (vectors,) = [frame for frame in embedded if isinstance(frame, Embeddings)]
    assert (vectors.dimension, vectors.pooling, vectors.model) == (64, "mean", name)


@pytest.mark.parametrize(
    ("name", "make", "spellings"),
    [
        ("flan-t5", checkpoints.make_t5, ["</s>"]),
        ("bloom", checkpoints.make_bloom, ["</s>"]),
        ("dolly", checkpoints.make_dolly, ["<|endoftext|>", "### End"]),
        ("gpt-neox", checkpoints.make_dolly, ["<|endoftext|>"]),
        ("stablelm", checkpoints.make_stablelm, ["<|endoftext|>", "<|im_end|>"]),
        (
            "stablelm-tuned-alpha",
            checkpoints.make_stablelm_tuned,
            ["<|endoftext|>", "<|USER|>", "<|ASSISTANT|>", "<|SYSTEM|>"],
        ),
    ],
)
def test_what_ends_an_answer(
    name: str, make: Callable[[Path], Path], spellings: list[str], tmp_path: Path
) -> None:
    folder = make(tmp_path / "checkpoint")
    plan = plan_of(f"{name}@{folder}")
    family = Registry.get(plan.family)
    config = family.Config.model_validate(plan.config)
    engine = family.open_engine(plan, config, pinned_slots=0)
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert engine.limits.end_tokens == {tokenizer.token_to_id(text) for text in spellings}
    finally:
        engine.close()


@pytest.mark.parametrize("spec", ["tiny-torch", "tiny-torch@{folder}"])
async def test_the_built_in_model_on_torch(spec: str) -> None:
    folder = models_folder() / "tiny" / "hf"
    host = await load(plan_of(spec.format(folder=folder)))
    try:
        frames = await ask(host, chat("Hello", sampling=Sampling(max_tokens=40, temperature=0)))
        (info,) = [frame for frame in await ask(host, InfoRequest()) if isinstance(frame, Info)]
    finally:
        await host.close()
    assert "hello" in text(frames).lower() or "hi" in text(frames).lower(), text(frames)
    assert (info.facts["engine"], info.facts["family"]) == ("torch", "tiny")
