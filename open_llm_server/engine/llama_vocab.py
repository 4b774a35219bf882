"""A GGUF's vocabulary: text to tokens, tokens to bytes, control tokens, chat template.

Safe with any text and from any thread. Knows nothing of contexts.
"""

from __future__ import annotations

import ctypes
import re
from functools import cached_property

from ..errors import ContextLengthExceeded
from .llama_native import Model, native

RUN_LIMIT = 1024
"""Characters of one kind in a row that a byte-pair tokenizer sees at once.

It splits text with `std::regex`, which recurses for each character of a match: some 26,000 equal
letters overflow an 8 MiB stack, and threads can have a sixteenth of that. A longer run is cut,
which can change the tokens at the cuts and nothing else.
"""
_RUN = re.compile(
    rf"[^\W\d_]{{{RUN_LIMIT}}}|\d{{{RUN_LIMIT}}}|\s{{{RUN_LIMIT}}}|[^\w\s]{{{RUN_LIMIT}}}|_{{{RUN_LIMIT}}}"
)
LONG_TEXT = 16_384
WINDOW = 2048
"""A text of more than LONG_TEXT bytes goes to a SentencePiece tokenizer in parts of so many
characters: what is not in the vocabulary costs it the square of the length (8 s for 200,000
Chinese signs). Parts end at a space where there is one; no usual piece reaches across."""
_GAP = re.compile(r"(?<=[^\W_]) (?=[^\W_])")
_SENTENCE_PIECE, _BYTE_PAIR = 1, 2  # llama_vocab_type
_UNKNOWN, _CONTROL = 1, 8  # llama_token_attr


class Vocabulary:
    """What text means to one model."""

    def __init__(self, model: Model, *, context_length: int) -> None:
        self._model = model  # keeps the handle alive
        self._vocab = model.vocab
        self._context_length = context_length
        self._size = model.shape.vocabulary
        self._pieces: list[bytes | None] = [None] * self._size
        self._kind = native.llama_vocab_type(self._vocab)
        attributes = [native.llama_vocab_get_attr(self._vocab, i) for i in range(self._size)]
        self.end_tokens = frozenset(
            token for token in range(self._size) if native.llama_vocab_is_eog(self._vocab, token)
        )
        self._control = frozenset(
            token for token, bits in enumerate(attributes) if bits & (_CONTROL | _UNKNOWN)
        )
        self.control_texts = frozenset(
            text for token in self._control | self.end_tokens if (text := self._spelling(token))
        )
        self._adds_end = bool(native.llama_vocab_get_add_eos(self._vocab))
        template = native.llama_model_chat_template(model.handle, None)
        self.chat_template: str | None = template.decode("utf-8", "replace") if template else None
        self.begin_text = self._spelling(native.llama_vocab_bos(self._vocab))
        self.end_text = self._spelling(native.llama_vocab_eos(self._vocab))

    @cached_property
    def longest_piece(self) -> int:
        """Bytes of the longest token."""
        return max(len(self.piece(token)) for token in range(self._size)) or 1

    def tokenize(self, text: str, *, begin: bool, control: bool) -> list[int]:
        """See Engine.tokenize. Linear in the length of `text`, whatever it says.

        Raises ContextLengthExceeded for a text that cannot fit in the context even if each of
        its tokens were the longest one, and ValueError for one that is not Unicode.
        """
        raw = text.encode()
        least = len(raw) // self.longest_piece
        if least > self._context_length:
            raise ContextLengthExceeded(
                f"the prompt is at least {least} tokens long and the model holds "
                f"{self._context_length}, answer included; shorten it, or start the server with "
                "a larger --context-length",
                n_prompt_tokens=least,
                n_ctx=self._context_length,
            )
        if self._kind == _BYTE_PAIR and len(raw) > RUN_LIMIT:
            head, *rest = _cut_runs(text)
            tokens = self._tokens(head.encode(), begin, control)
            for part in rest:
                tokens += self._tokens(part.encode(), False, control)
            return tokens
        if self._kind == _SENTENCE_PIECE and len(raw) > LONG_TEXT:
            return self._by_windows(text, begin, control)
        return self._tokens(raw, begin, control)

    def piece(self, token: int) -> bytes:
        """See Engine.piece."""
        known = self._pieces[token]
        if known is None:
            known = b"" if token in self._control else self._text_of(token, special=False)
            self._pieces[token] = known
        return known

    def _by_windows(self, text: str, begin: bool, control: bool) -> list[int]:
        """Parts after the first follow a line feed, so that they get no space of their own."""
        head, *rest = _cut_windows(text)
        tokens = self._tokens(head.encode(), begin, control)
        lead = self._tokens(b"\n", False, False)
        for part in rest:
            found = self._tokens(b"\n" + part.encode(), False, control)
            if found[: len(lead)] != lead:  # the line feed became part of another token
                return self._tokens(text.encode(), begin, control)
            tokens += found[len(lead) :]
        return tokens

    def _tokens(self, raw: bytes, begin: bool, control: bool) -> list[int]:
        room = len(raw) + 8
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = native.llama_tokenize(self._vocab, raw, len(raw), buffer, room, begin, control)
            if count >= 0:
                # Some vocabularies ask for an end token too: an unfinished text has none.
                return buffer[: count - (begin and self._adds_end)]
            room = -count

    def _text_of(self, token: int, *, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = native.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            room = -length

    def _spelling(self, token: int) -> str:
        if token < 0:
            return ""
        return self._text_of(token, special=True).decode("utf-8", "replace")


def _cut_runs(text: str) -> list[str]:
    """`text` in parts, none with more than RUN_LIMIT characters of one kind in a row."""
    parts, start = [], 0
    for run in _RUN.finditer(text):
        parts.append(text[start : run.end()])
        start = run.end()
    parts.append(text[start:])
    return [part for part in parts if part] or [text]


def _cut_windows(text: str) -> list[str]:
    """`text` in parts of at most WINDOW characters, cut between two words if possible."""
    parts, start = [], 0
    while len(text) - start > WINDOW:
        end = start + WINDOW
        gaps = list(_GAP.finditer(text, start + WINDOW // 2, end))
        if gaps:
            end = gaps[-1].start()
        parts.append(text[start:end])
        start = end
    return [*parts, text[start:]]
