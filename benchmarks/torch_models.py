"""Checkpoints with random weights at published sizes, and prompts for them.

The vocabulary is made of syllables, so that a prompt's tokens are known without a tokenizer, and
every token that can be chosen is text. Imports torch when a checkpoint is made.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUILD = Path(__file__).resolve().parent.parent / ".bench"
PROMPT_TOKENS = 40
SPACES = {"t5": "\u2581", "gpt_neox": "\u0120"}
_CONTROL = {"t5": ("<pad>", "</s>", "<unk>"), "gpt_neox": ("<|endoftext|>",)}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SYLLABLES = [c + v for c, v in itertools.product("tnshrdlcmfwpvbgkjz", "eaoiu")]
CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@dataclass(frozen=True)
class Checkpoint:
    """A model in numbers; `settings` are transformers' own names."""

    label: str
    family: str
    model_type: str
    settings: tuple[tuple[str, Any], ...]
    layers: int
    attention: int
    """Width of all heads together."""
    seed: int = 0

    @property
    def vocabulary(self) -> int:
        size: int = dict(self.settings)["vocab_size"]
        return size

    @property
    def encodes(self) -> bool:
        return self.model_type == "t5"

    def cache_bytes(self, tokens: int, slots: int) -> int:
        """Keys and values in bfloat16; those of prompts too where an encoder reads them."""
        return slots * tokens * self.layers * 2 * self.attention * 2 * (2 if self.encodes else 1)


def _t5(label: str, *, width: int, layers: int, inner: int, heads: int) -> Checkpoint:
    settings = {
        "d_model": width, "num_layers": layers, "num_decoder_layers": layers, "d_ff": inner,
        "num_heads": heads, "d_kv": 64, "vocab_size": 32128, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False, "decoder_start_token_id": 0, "pad_token_id": 0,
        "eos_token_id": 1,
    }  # fmt: skip
    return Checkpoint(label, "flan-t5", "t5", tuple(settings.items()), layers, heads * 64)


def _neox(label: str, *, width: int, layers: int, inner: int, heads: int) -> Checkpoint:
    settings = {
        "hidden_size": width, "num_hidden_layers": layers, "intermediate_size": inner,
        "num_attention_heads": heads, "vocab_size": 50304, "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25
        },
        "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    return Checkpoint(label, "gpt-neox", "gpt_neox", tuple(settings.items()), layers, width)


FLAN_T5_BASE = _t5("flan-t5-base", width=768, layers=12, inner=2048, heads=12)
FLAN_T5_XL = _t5("flan-t5-xl", width=2048, layers=24, inner=5120, heads=32)
PYTHIA_160M = _neox("pythia-160m", width=768, layers=12, inner=3072, heads=12)
PYTHIA_2B8 = _neox("pythia-2.8b", width=2560, layers=32, inner=10240, heads=32)


def cached(checkpoint: Checkpoint, folder: Path = BUILD) -> Path:
    """The folder of `checkpoint`, in bfloat16, made now if it is not there."""
    path = folder / f"random-{checkpoint.label}-{checkpoint.seed}"
    if not path.exists():
        partial = folder / f"{path.name}.{os.getpid()}.part"
        partial.mkdir(parents=True)
        try:
            _write(partial, checkpoint)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return path


def weight_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


@dataclass(frozen=True)
class Prompt:
    """A text and its tokens, as the model's tokenizer makes them."""

    text: str
    tokens: tuple[int, ...]


class Words:
    """Draws prompts from a checkpoint's words, each of which is one token."""

    def __init__(self, checkpoint: Checkpoint, seed: int) -> None:
        self._checkpoint = checkpoint
        self._random = random.Random(seed)
        space = SPACES[checkpoint.model_type]
        self._words = [
            (token, text[1:])
            for token, text in enumerate(pieces(checkpoint))
            if text[0] == space and len(text) > 3
        ]

    def prompt(self, tokens: int = PROMPT_TOKENS) -> Prompt:
        """`tokens` in all, the end token included that an encoder's tokenizer puts there."""
        encodes = self._checkpoint.encodes
        chosen = self._random.choices(self._words, k=tokens - encodes)
        text = " ".join(word for _, word in chosen)
        ids = (*(token for token, _ in chosen), *([1] if encodes else []))
        # T5's tokenizer puts the first space there itself.
        return Prompt(text if encodes else f" {text}", ids)

    def prompts(self, count: int) -> list[Prompt]:
        return [self.prompt() for _ in range(count)]


def pieces(checkpoint: Checkpoint) -> list[str]:
    """Every token's spelling, in order; merging two of them reaches each of more than a letter."""
    space, size = SPACES[checkpoint.model_type], checkpoint.vocabulary
    letters = _byte_letters() if space == SPACES["gpt_neox"] else [space, *_LETTERS]
    found = [*_CONTROL[checkpoint.model_type], *letters, *_SYLLABLES]
    for length in (1, 2, 3):
        for parts in itertools.product(_SYLLABLES, repeat=length):
            if len(found) == size:
                return found
            found.append(space + "".join(parts))
    return found


def _mute(checkpoint: Checkpoint) -> int:
    """So many tokens are never the likeliest: control tokens, bytes, letters."""
    return pieces(checkpoint).index(_SYLLABLES[0])


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    settings = dict(checkpoint.settings)
    config = AutoConfig.for_model(checkpoint.model_type, **settings)
    kind: Any = AutoModelForSeq2SeqLM if checkpoint.encodes else AutoModelForCausalLM
    torch.manual_seed(checkpoint.seed)
    model = kind.from_config(config, dtype=torch.bfloat16)
    if checkpoint.encodes:
        # The library ties T5's head whatever it is told; published FLAN-T5 has one of its own.
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    with torch.no_grad():
        # Such logits are 0, and some of the others are above: answers are as long as asked for.
        model.get_output_embeddings().weight[: _mute(checkpoint)] = 0
    model.generation_config.pad_token_id = 0  # for `generate` on a batch
    model.save_pretrained(folder)
    _tokenizer(checkpoint).save_pretrained(folder)


def _tokenizer(checkpoint: Checkpoint) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    spelled, control = pieces(checkpoint), _CONTROL[checkpoint.model_type]
    if checkpoint.encodes:
        tokenizer = Tokenizer(models.Unigram([(text, -10.0) for text in spelled], unk_id=2))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)]
        )
        special = {"pad_token": control[0], "eos_token": control[1], "unk_token": control[2]}
    else:
        vocabulary = {text: token for token, text in enumerate(spelled)}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=_merges(spelled[1 + 256 :])))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        special = {"eos_token": control[0], "bos_token": control[0], "unk_token": control[0]}
    tokenizer.add_special_tokens(list(control))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # it says no types
        tokenizer_object=tokenizer,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        **special,
    )


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Letters become syllables, the space joins the first, and syllables follow it."""
    return [(word[0], word[1]) if len(word) == 2 else (word[:-2], word[-2:]) for word in words]


def _byte_letters() -> list[str]:
    """How a byte-level vocabulary spells the bytes, in order."""
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())
