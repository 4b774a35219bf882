"""Small tokenizers of the kinds that real checkpoints carry, made from a few lines of text.

Each function gives a `tokenizer.json` as text. The lines hold emoji, Chinese, Japanese, code.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import cache
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

EXTRA_IDS = 4
"""Of the T5 vocabulary's sentinels, `<extra_id_0>` and on."""
CORPUS = (
    "The quick brown fox jumps over the lazy dog. The dog was not amused, was it?",
    "Below is an instruction that describes a task. Write a response that completes the request.",
    "Question: what is the capital of France? Answer: the capital of France is Paris.",
    "Hello, how are you today? I'm fine, thanks; and soup is my favourite food!",
    "def add(a, b):\n    return a + b\n\n\tprint(add(1, 2))  # 3, 4, 5, 67, 890",
    "Grüße aus Köln: naïve façade, jalapeño, Ærøskøbing, Łódź, Привет мир, γειά σου.",
    "你好,世界。今天天气很好。日本語のテキストもあります。한국어 문장.",
    "Emoji: 😀 🎉 ❤️ 👩‍👩‍👧 🇩🇪 and 🤖 say hello to each other; ‘quotes’, “more” — done…",
    "translate English to German: The house is wonderful. Das Haus ist wunderbar.",
    "User: tell me a story. Assistant: once upon a time there was a small model.",
    "summarize: studies have shown that owning a dog is good for you, 100% of the time.",
    "<html> {json: [1, 2]} a_b | c ^ d ~ e @ f & g $ 10 = h * i / j \\ k `code` 'x' \"y\"",
)


def _train(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@cache
def byte_level(
    special: tuple[str, ...], added: tuple[str, ...] = (), plain: tuple[str, ...] = ()
) -> str:
    """Byte-level BPE as GPT-NeoX's; `added` are special tokens after the vocabulary, `plain` are
    added tokens that are text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(
        tokenizer,
        BpeTrainer(
            vocab_size=384,
            special_tokens=list(special),
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    tokenizer.add_tokens(list(plain))
    tokenizer.add_special_tokens(list(added))
    return tokenizer.to_str()


@cache
def bloom_bpe() -> str:
    """Byte-level BPE as BLOOM's: its own split, no normalizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(" ?[^(\\s|[.,!?…。,、।۔،])]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return _train(
        tokenizer,
        BpeTrainer(
            vocab_size=384,
            special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    ).to_str()


@cache
def t5_unigram() -> str:
    """Unigram without byte fallback, as T5's: `</s>` after every text, and a few extra ids."""
    # Counted, not trained: the trainer's result differs from process to process.
    parts: Counter[str] = Counter()
    for text in CORPUS:
        for word in text.split():
            word = f"▁{word}"
            for length in (1, 2, 3, 5, len(word)):
                parts.update(word[at : at + length] for at in range(len(word) - length + 1))
    characters = sorted(part for part in parts if len(part) == 1)
    longer = sorted(set(parts) - set(characters), key=lambda part: (-parts[part], part))
    chosen = [*characters, *longer[: 380 - len(characters)]]
    special = ["<pad>", "</s>", "<unk>"]
    # The extra ids stand in the vocabulary itself, as T5's do.
    extra = [f"<extra_id_{place}>" for place in reversed(range(EXTRA_IDS))]
    total = parts.total()
    vocabulary = [
        *((text, 0.0) for text in special),
        *((part, math.log(parts[part] / total)) for part in chosen),
        *((text, 0.0) for text in extra),
    ]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([*special, *extra])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer.to_str()


@cache
def llama_bpe() -> str:
    """BPE over metaspaces with byte fallback, as Llama's: `<s>` before every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    # Characters of the corpus beyond these are left to the byte fallback.
    ascii_corpus = (text for text in CORPUS if text.isascii())
    tokenizer.train_from_iterator(
        ascii_corpus,
        BpeTrainer(vocab_size=460, special_tokens=special + bytes_, show_progress=False),
    )
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [
        _added(place, text, special=True) for place, text in enumerate(special)
    ]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer.to_str()


@cache
def bert_wordpiece() -> str:
    """Lower-case WordPiece as BERT's, cut and padded to 128 tokens as MiniLM's file asks for."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    split = pre_tokenizers.BertPreTokenizer()
    parts: Counter[str] = Counter()  # counted, not trained, as above
    for text in CORPUS:
        for word, _ in split.pre_tokenize_str(normalizer.normalize_str(text)):
            parts.update({word: 1, **{letter: 1000 for letter in word}})
            parts.update(f"##{letter}" for letter in word)
            parts.update(f"##{word[-length:]}" for length in (2, 3))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    chosen = sorted(parts, key=lambda part: (-parts[part], part))[:395]
    vocabulary = {text: place for place, text in enumerate([*special, *chosen])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding(length=128)
    return tokenizer.to_str()


def _added(place: int, text: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": place, "content": text, **flags, "special": special}
