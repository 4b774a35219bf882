"""Embeddings from a GGUF model: the mean of its last hidden states, L2-normalised.

Works in a context of its own, one input at a time, so neither slots nor other inputs change the
result. The context is made at the first use and grows with the longest input.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigurationError, ContextLengthExceeded, EngineError
from .fit_llama import CELL_PADDING
from .llama_native import Model, native

CHUNK_TOKENS = 256
"""Tokens evaluated at once. llama.cpp computes logits beside the embeddings, for each token."""


class Embedder:
    """See the module's docstring."""

    def __init__(self, model: Model, *, context_length: int, threads: int) -> None:
        self._model = model
        self._context_length = context_length
        self._threads = threads
        self._context: Any = None
        self._room = 0

    def embed(self, tokens: Sequence[int], between: Callable[[], None]) -> list[float]:
        """One vector of length 1; calls `between` before each chunk.

        Raises ContextLengthExceeded, or EngineError.
        """
        self._make_room(len(tokens))
        width = self._model.shape.embedding_size
        native.llama_memory_clear(native.llama_get_memory(self._context), False)
        total = np.zeros(width, np.float64)
        for start in range(0, len(tokens), CHUNK_TOKENS):
            between()
            chunk = tokens[start : start + CHUNK_TOKENS]
            ids = (ctypes.c_int32 * len(chunk))(*chunk)
            code = native.llama_decode(self._context, native.llama_batch_get_one(ids, len(chunk)))
            if code:
                raise RuntimeError(f"llama.cpp failed with code {code}: {self._model.last_error()}")
            states = np.ctypeslib.as_array(
                native.llama_get_embeddings(self._context), (len(chunk), width)
            )
            total += states.sum(axis=0, dtype=np.float64)
        length = float(np.linalg.norm(total))
        if not np.isfinite(length):
            raise EngineError("the model's embedding of this input is not a number")
        vector: list[float] = (total / length if length else total).tolist()
        return vector

    def close(self) -> None:
        if self._context is not None:
            native.llama_free(self._context)
            self._context = None
            self._room = 0

    def _make_room(self, wanted: int) -> None:
        if wanted > self._context_length:
            raise ContextLengthExceeded(
                f"the input is {wanted} tokens long and the model holds {self._context_length}; "
                "shorten it, or start the server with a larger --context-length",
                n_prompt_tokens=wanted,
                n_ctx=self._context_length,
            )
        if wanted <= self._room:
            return
        self.close()
        room = CELL_PADDING
        while room < wanted:
            room *= 2
        try:
            self._context = self._model.new_context(
                cells=room,
                sequences=1,
                batch_tokens=min(CHUNK_TOKENS, room),
                threads=self._threads,
                embeddings=True,
            )
        except ConfigurationError as error:
            raise EngineError(f"no memory for an input of this length: {error.message}") from error
        self._room = room
