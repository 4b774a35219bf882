"""A checkpoint's vocabulary: text to tokens, tokens to bytes, control tokens, chat template.

Text is split by tokenizer.json as it stands. The tokenizer classes of transformers make parts of
that file anew (in version 5, T5's lose its normaliser) and hold the vocabulary several times; they
are asked only where there is no such file.
Safe with any text and from any thread. Knows nothing of weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer

from ..errors import WeightsError
from .checkpoint_view import tokenizer_view
from .torch_checkpoint import Checkpoint
from .torch_definition import (
    Names,
    complete,
    finds_in_vocabulary,
    is_marker,
    read_names,
    without_control,
)
from .torch_pieces import Pieces

MOST_ADDED = 100_000
"""Added tokens that a tokenizer may have. Real ones have up to some thousands."""


class Vocabulary:
    """What text means to one model. See `Engine` for what each name means."""

    suffix: tuple[int, ...]
    """What the tokenizer puts after every text (`</s>` of T5, `[SEP]` of BERT)."""

    def __init__(self, checkpoint: Checkpoint, *, end_texts: Sequence[str] = ()) -> None:
        """`end_texts` that are one token each end an answer, beside the checkpoint's own ends.

        Raises WeightsError for a tokenizer that cannot be read or does not fit the model.
        """
        self.size = _size(checkpoint)
        names = read_names(checkpoint.folder)
        try:
            definition, self._plain = _open(checkpoint, names, self.size)
            added = {entry["content"]: entry["id"] for entry in definition["added_tokens"]}
            special = {e["content"] for e in definition["added_tokens"] if e["special"]}
            special |= names.special & set(added)
            marks = {text for text in added if is_marker(text) or text in end_texts}
            self.control_texts = frozenset(special | marks)
            self._guarded = _guarded(definition, self._plain, self.control_texts)
            self._begin, self.suffix = _surroundings(self._plain)
        except WeightsError:
            raise
        except Exception as error:  # the library raises this very class
            raise WeightsError(
                f"the tokenizer in {checkpoint.folder} cannot be read: {_line(error)}; download "
                "tokenizer.json and tokenizer_config.json again"
            ) from error
        _refuse_misfits(self._plain, added, checkpoint, self.size)
        self._pieces = Pieces(
            definition, self._plain.id_to_token, hidden=frozenset(map(added.__getitem__, special))
        )
        self.begin_text = names.begin or self._named_by(checkpoint, "bos_token_id")
        self.end_text = names.end or self._named_by(checkpoint, "eos_token_id")
        self.chat_template = names.chat_template
        self.end_tokens = self._ends(checkpoint, end_texts)

    def tokenize(self, text: str, *, begin: bool, control: bool) -> list[int]:
        """See Engine.tokenize; never with `suffix`. Raises ValueError for text that is not Unicode
        (lone surrogates)."""
        text.encode()
        tokenizer = self._plain if control else self._guarded
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return [*self._begin, *found] if begin else found

    def piece(self, token: int) -> bytes:
        """See Engine.piece. Empty for a place in the model that the tokenizer has no token for."""
        return self._pieces.get(token) if 0 <= token < self.size else b""

    def _named_by(self, checkpoint: Checkpoint, key: str) -> str:
        """The spelling of the first token that config.json names by its id."""
        for token in _ids(checkpoint.config.get(key)):
            return self._plain.id_to_token(token) or ""
        return ""

    def _ends(self, checkpoint: Checkpoint, end_texts: Sequence[str]) -> frozenset[int]:
        ends: set[int | None] = {self._plain.token_to_id(self.end_text) if self.end_text else None}
        for content in (checkpoint.config, checkpoint.generation):
            ends.update(_ids(content.get("eos_token_id")))
        for text in end_texts:
            token = self._plain.token_to_id(text)
            if token is not None:
                ends.add(token)
            elif len(found := self.tokenize(text, begin=False, control=True)) == 1:
                # Only if the token is that text: a metaspace tokenizer puts a space before it.
                ends.update(found if self.piece(found[0]) == text.encode() else [])
        return frozenset(end for end in ends if end is not None and end < self.size)


def _open(checkpoint: Checkpoint, names: Names, size: int) -> tuple[dict[str, Any], Tokenizer]:
    """The definition, and what splits text as it says."""
    path = checkpoint.folder / "tokenizer.json"
    text = path.read_text(encoding="utf-8") if path.is_file() else _converted(checkpoint)
    definition: dict[str, Any] = json.loads(text)
    changed = complete(definition, names, size=size)
    if len(definition["added_tokens"]) > MOST_ADDED:
        raise ValueError(f"it adds more than {MOST_ADDED:,} tokens")
    tokenizer = Tokenizer.from_str(json.dumps(definition) if changed else text)
    # Limits for training; a server decides about lengths elsewhere, and pads nothing.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return definition, tokenizer


def _converted(checkpoint: Checkpoint) -> str:
    """What the library makes of files that are older than tokenizer.json."""
    import transformers

    from .torch_quiet import quiet

    with quiet(), tokenizer_view(checkpoint) as view:
        library = transformers.AutoTokenizer.from_pretrained(
            view, local_files_only=True, trust_remote_code=False
        )
    if not isinstance(library, transformers.PreTrainedTokenizerFast):
        raise TypeError(f"{type(library).__name__} has no tokenizer.json")
    text: str = library.backend_tokenizer.to_str()
    return text


def _guarded(definition: dict[str, Any], plain: Tokenizer, control: frozenset[str]) -> Tokenizer:
    """Splits text as `plain` does, but makes none of `control` a token."""
    if finds_in_vocabulary(definition["model"], control):
        guarded = Tokenizer.from_str(json.dumps(without_control(definition, control)))
        guarded.no_truncation()
        guarded.no_padding()
    else:
        guarded = Tokenizer(plain.model)  # the vocabulary is shared: of 250,000 tokens, 130 MB
        guarded.normalizer = plain.normalizer
        guarded.pre_tokenizer = plain.pre_tokenizer
        guarded.add_tokens(
            [
                _special(token) if token.content in control else token
                for _, token in sorted(plain.get_added_tokens_decoder().items())
            ]
        )
    guarded.encode_special_tokens = True
    return guarded


def _special(token: AddedToken) -> AddedToken:
    return AddedToken(token.content, special=True, normalized=False)


def _refuse_misfits(
    tokenizer: Tokenizer, added: dict[str, int], checkpoint: Checkpoint, size: int
) -> None:
    count = tokenizer.get_vocab_size()
    if count > size:
        raise WeightsError(
            f"the tokenizer in {checkpoint.folder} has {count} tokens, and the model knows {size} "
            "(vocab_size in config.json); take both from the same checkpoint"
        )
    for text, token in added.items():
        # The library counts on from the vocabulary, whatever number the file gives.
        if tokenizer.token_to_id(text) != token:
            raise WeightsError(
                f"the tokenizer in {checkpoint.folder} gives {text!r} the number {token}, and its "
                "vocabulary another; take all files from one checkpoint"
            )


def _surroundings(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is put before and after a text."""
    encoding = tokenizer.encode("a")
    own = [place for place, mask in enumerate(encoding.special_tokens_mask) if not mask]
    first, last = (own[0], own[-1] + 1) if own else (0, 0)
    return tuple(encoding.ids[:first]), tuple(encoding.ids[last:])


def _size(checkpoint: Checkpoint) -> int:
    size = checkpoint.config.get("vocab_size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise WeightsError(
            f"{checkpoint.folder / 'config.json'} gives no vocab_size; download it again"
        )
    return size


def _ids(named: Any) -> Iterable[int]:
    """One id or several, as files write them."""
    return [
        token
        for token in (named if isinstance(named, list) else [named])
        if isinstance(token, int) and not isinstance(token, bool) and token >= 0
    ]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
