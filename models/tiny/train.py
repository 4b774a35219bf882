"""Trains the tokenizer and the weights of `tiny` on a CPU and saves them in Hugging Face layout.

Everything follows from the seed and the step count; the clock is only printed, except with
`--minutes`, which asks for the number of steps that this machine manages in that time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corpus
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
SPECIALS = ("<|text|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
BOS, END, PAD = 0, 1, 2
VOCABULARY = 3072
CONTEXT = 1024
STEPS = 1200
TOKENS_PER_STEP = 6144
WIDTH_STEP = 16
# glibc returns freed memory to the system after each step by default, and libgomp spins while
# it waits: on small machines these two settings are worth 2-8x.
SETTINGS = {
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_MMAP_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "1000000000",
    "OMP_WAIT_POLICY": "passive",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)

Example = tuple[list[int], list[bool]]


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """Byte-level BPE with GPT-2's split, which llama.cpp knows as `gpt-2`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        say(f"the corpus gave only {tokenizer.get_vocab_size()} tokens")
        sys.exit(1)
    return tokenizer


def encode(document: corpus.Document, tokenizer: Tokenizer) -> Example:
    """Token ids of a document and, for each, whether the model should learn to write it."""
    ids: list[int] = []
    learn: list[bool] = []
    for piece in document:
        tokens = tokenizer.encode(piece.text).ids
        ids += tokens
        learn += [piece.learn] * len(tokens)
    return ids[:CONTEXT], learn[:CONTEXT]


def batches(tokenizer: Tokenizer, seed: int, steps: int) -> Iterator[list[Example]]:
    """Documents of similar length, about TOKENS_PER_STEP of them at a time."""
    rng = random.Random(seed)
    made = 0
    while made < steps:
        pool = [encode(corpus.document(rng), tokenizer) for _ in range(4000)]
        pool.sort(key=lambda example: len(example[0]))
        groups: list[list[Example]] = []
        while pool:
            rows = TOKENS_PER_STEP // _width(pool[-1])
            groups.append(pool[-rows:])
            del pool[-rows:]
        rng.shuffle(groups)
        yield from groups[: steps - made]
        made += len(groups)


def _width(example: Example) -> int:
    # Few different shapes keep the memory allocator from fragmenting.
    return -(-len(example[0]) // WIDTH_STEP) * WIDTH_STEP


def collate(group: list[Example]) -> tuple[Tensor, Tensor]:
    """Inputs padded on the right, and targets with -100 where nothing is to be learned."""
    width = max(_width(example) for example in group)
    inputs = torch.full((len(group), width), PAD)
    targets = torch.full((len(group), width), -100)
    for row, (ids, learn) in enumerate(group):
        inputs[row, : len(ids)] = torch.tensor(ids)
        wanted = [t if flag else -100 for t, flag in zip(ids[1:], learn[1:], strict=True)]
        targets[row, : len(wanted)] = torch.tensor(wanted)
    return inputs, targets


def build_model(layers: int) -> LlamaForCausalLM:
    """The architecture; every row length is a multiple of 32, which Q8_0 needs."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config)


def loss_of(model: LlamaForCausalLM, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy; the head runs only where there is something to learn."""
    wanted = targets != -100
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[wanted])
    return functional.cross_entropy(logits.float(), targets[wanted])


def optimizers(model: LlamaForCausalLM, scale: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, Adam for the embedding and the norms."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, weight in model.named_parameters():
        (matrices if weight.ndim == 2 and "embed" not in name else others).append(weight)
    return [
        torch.optim.Muon(matrices, lr=0.02 * scale, weight_decay=0.02, adjust_lr_fn="original"),
        torch.optim.AdamW(others, lr=3e-3 * scale, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def speed_factor(step: int, steps: int) -> float:
    """Warm-up over 40 steps, then level, then down to nothing over the last half."""
    return min((step + 1) / 40, 1.0, max((steps - step) / (0.5 * steps), 0.01))


def train(
    model: LlamaForCausalLM, tokenizer: Tokenizer, seed: int, steps: int, scale: float = 1.0
) -> None:
    """Runs the steps and prints step, loss, tokens per second and the time left."""
    tuned = optimizers(model, scale)
    base = [group["lr"] for optimizer in tuned for group in optimizer.param_groups]
    started = time.monotonic()
    tokens, window = 0, 0.0
    for step, group in enumerate(batches(tokenizer, seed, steps)):
        inputs, targets = collate(group)
        factor = speed_factor(step, steps)
        groups = [g for optimizer in tuned for g in optimizer.param_groups]
        for param_group, rate in zip(groups, base, strict=True):
            param_group["lr"] = rate * factor
        loss = loss_of(model, inputs, targets)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in tuned:
            optimizer.step()
            optimizer.zero_grad()
        tokens += inputs.numel()
        window += loss.item()
        if (step + 1) % 25 == 0:
            spent = time.monotonic() - started
            left = spent / (step + 1) * (steps - step - 1)
            say(
                f"step {step + 1}/{steps}  loss {window / 25:.3f}  "
                f"{tokens / spent:.0f} tokens/s  {left / 60:.1f} min left"
            )
            window = 0.0


def steps_in(minutes: float, model: LlamaForCausalLM, tokenizer: Tokenizer) -> int:
    """How many steps this machine manages in that time, from five tried and undone."""
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    started = time.monotonic()
    train(model, tokenizer, seed=1, steps=5)
    per_step = (time.monotonic() - started) / 5
    model.load_state_dict(state)
    return max(int(minutes * 60 / per_step), 50)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Writes the folder that transformers loads, weights in float16."""
    generation: type[Any] = GenerationConfig
    out.mkdir(parents=True, exist_ok=True)
    for weight in model.parameters():
        weight.data = weight.data.to(torch.float16)
    model.generation_config = generation(
        bos_token_id=BOS, eos_token_id=END, pad_token_id=PAD, do_sample=False
    )
    model.config.dtype = torch.float16
    model.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    named = {"bos_token": SPECIALS[BOS], "eos_token": SPECIALS[END], "pad_token": SPECIALS[PAD]}
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
        "chat_template": CHAT_TEMPLATE,
    }
    write_json(out / "tokenizer_config.json", settings)
    write_json(out / "special_tokens_map.json", named)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Indented, so that the repository shows readable differences."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def say(line: str) -> None:
    """One line of progress, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "hf")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, help="instead of --steps; not reproducible")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--start", type=Path, help="weights to go on from, at half the speed")
    parser.add_argument("--layers", type=int, default=6)
    given = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in SETTINGS.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **SETTINGS})
    torch.manual_seed(given.seed)
    rng = random.Random(given.seed)
    if given.start:
        tokenizer = Tokenizer.from_file(str(given.start / "tokenizer.json"))
        model = LlamaForCausalLM.from_pretrained(given.start, dtype=torch.float32).train()
    else:
        texts = ("".join(p.text for p in corpus.document(rng)) for _ in range(8000))
        tokenizer = train_tokenizer(texts)
        model = build_model(given.layers)
    say(f"{sum(p.numel() for p in model.parameters())} parameters")
    steps = steps_in(given.minutes, model, tokenizer) if given.minutes else given.steps
    train(model, tokenizer, given.seed, steps, scale=0.5 if given.start else 1.0)
    save(model, tokenizer, given.out)


if __name__ == "__main__":
    main()
