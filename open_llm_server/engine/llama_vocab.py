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
_BYTE_PAIR = 2  # llama_vocab_type
_UNKNOWN, _CONTROL = 1, 8  # llama_token_attr


class Vocabulary:
    """What text means to one model."""

    def __init__(self, model: Model, *, context_length: int) -> None:
        self._model = model  # keeps the handle alive
        self._vocab = model.vocab
        self._context_length = context_length
        self._size = model.shape.vocabulary
        self._pieces: list[bytes | None] = [None] * self._size
        self._byte_pair = native.llama_vocab_type(self._vocab) == _BYTE_PAIR
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
        if not self._byte_pair or len(raw) <= RUN_LIMIT:
            return self._tokens(raw, begin, control)
        tokens: list[int] = []
        for index, part in enumerate(_cut(text)):
            tokens += self._tokens(part.encode(), begin and index == 0, control)
        return tokens

    def piece(self, token: int) -> bytes:
        """See Engine.piece."""
        known = self._pieces[token]
        if known is None:
            known = b"" if token in self._control else self._text_of(token, special=False)
            self._pieces[token] = known
        return known

    def _tokens(self, raw: bytes, begin: bool, control: bool) -> list[int]:
        room = len(raw) + 8
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = native.llama_tokenize(self._vocab, raw, len(raw), buffer, room, begin, control)
            if count >= 0:
                return buffer[:count]
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


def _cut(text: str) -> list[str]:
    """`text` in parts, none with more than RUN_LIMIT characters of one kind in a row."""
    parts, start = [], 0
    for run in _RUN.finditer(text):
        parts.append(text[start : run.end()])
        start = run.end()
    parts.append(text[start:])
    return [part for part in parts if part] or [text]
