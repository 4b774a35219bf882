"""The typed edge of llama.cpp: its library, its log, a loaded model and its contexts.

Owns every call that loads or frees something, and turns each way it can fail into an error with a
way out. Knows no slots, no sampling and no text.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as _binding

from ..errors import ConfigurationError, WeightsError
from .fit_llama import CELL_PADDING, MOVING, Cells
from .memory import fit_context, free_memory

log = logging.getLogger(__name__)

native: Any = _binding
"""The binding. Its calls release the interpreter's lock: right for long ones."""
_brief = ctypes.PyDLL(native._lib._name)
_libc = ctypes.CDLL(None)

KEPT_ERRORS = 8
_WARNING, _ERROR = 3, 4  # ggml_log_level
_F32_FILE = 0  # llama_ftype
_F32, _F16 = 0, 1  # ggml_type
_MEAN_POOLED_BY_US = 0  # LLAMA_POOLING_TYPE_NONE
_VOCABULARY_NONE = 0  # llama_vocab_type


def brief(name: str) -> Any:
    """The call `name` with the interpreter's lock held.

    Giving the lock away for a call of microseconds invites a busy event loop to keep it for
    milliseconds.
    """
    released = getattr(native, name)
    call = _brief[released.__name__]
    call.argtypes, call.restype = released.argtypes, released.restype
    return call


class NativeLog:
    """Takes llama.cpp's log: quiet, and its last errors kept for messages to people."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=KEPT_ERRORS)
        self.listener: Callable[[str], None] | None = None
        """Hears everything, in pieces of lines."""
        self._callback = native.llama_log_callback(self._take)
        native.llama_log_set(self._callback, None)

    def _take(self, level: int, text: bytes, _: Any) -> None:
        if self.listener:
            self.listener(text.decode("utf-8", "replace"))
        if level not in (_ERROR, _WARNING):
            return
        line = text.decode("utf-8", "replace").strip()
        if level == _ERROR:
            self.errors.append(line)  # who asked tells; an aborted step is no fault
            log.info("llama.cpp: %s", line)
        else:
            log.debug("llama.cpp: %s", line)

    def last(self) -> str:
        """What went wrong, in llama.cpp's words."""
        return "; ".join(self.errors) or "llama.cpp gave no reason"


_log: NativeLog | None = None


def start_backend() -> NativeLog:
    """Prepares the library, once in a process."""
    global _log
    if _log is None:
        _log = NativeLog()
        _load_variants()
        native.llama_backend_init()
    return _log


def _load_variants() -> None:
    """Of a build for every processor, the variant that suits this one best.

    Left to itself, the library looks for variants in the current folder too, where anybody may
    have put something.
    """
    folder = Path(native._lib._name).parent
    if any(folder.glob("libggml-cpu-*.so")):
        # Through libllama, whose ggml it is: the binding loads a copy of its own beside it.
        native._lib.ggml_backend_load_all_from_path(os.fsencode(folder))


class AbortFlag:
    """Makes a running decode leave early.

    llama.cpp asks a callback after every node of its graph. A Python callback would take the
    interpreter's lock some hundred times a step, so the callback is C's `strlen`, and the flag a
    text that is empty or not.
    """

    def __init__(self) -> None:
        self._text = ctypes.create_string_buffer(2)
        self.callback = native.ggml_abort_callback(ctypes.cast(_libc.strlen, ctypes.c_void_p).value)
        self.data = ctypes.cast(self._text, ctypes.c_void_p)

    def raise_(self) -> None:
        self._text[0] = b"!"

    def lower(self) -> None:
        self._text[0] = b"\0"


@dataclass(frozen=True)
class Shape:
    """What a loaded model is, in numbers."""

    context_length: int
    embedding_size: int
    vocabulary: int


class Model:
    """Loaded weights."""

    def __init__(self, path: Path, *, gpu_layers: int) -> None:
        """`gpu_layers` -1: all of them. Raises WeightsError or ConfigurationError."""
        self.path = path
        self._gpu = gpu_layers != 0
        self._log = start_backend()
        self._log.errors.clear()
        if gpu_layers and not native.llama_supports_gpu_offload():
            raise ConfigurationError(
                "this build of llama.cpp computes on the CPU only; use --device cpu, or build "
                "llama-cpp-python for your GPU (docs/installing.md says how)"
            )
        parameters = native.llama_model_default_params()
        parameters.n_gpu_layers = gpu_layers
        self.handle: Any = native.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self.handle:
            raise WeightsError(
                f"llama.cpp cannot load {path}: {self._log.last()}. Download or convert the file "
                "again, or use a model of another architecture"
            )
        self.vocab: Any = native.llama_model_get_vocab(self.handle)
        try:
            self._refuse_unfit()
        except WeightsError:
            self.close()
            raise
        self._adapters = (native.llama_adapter_lora_p_ctypes * 0)()
        self.float32 = native.llama_model_ftype(self.handle) == _F32_FILE
        self.shape = self._shape()

    def metadata(self, key: str) -> str | None:
        """A value of the file's header as text."""
        buffer = ctypes.create_string_buffer(256)
        name = key.encode()
        length = native.llama_model_meta_val_str(self.handle, name, buffer, len(buffer))
        if length >= len(buffer):
            buffer = ctypes.create_string_buffer(length + 1)
            native.llama_model_meta_val_str(self.handle, name, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else None

    def _refuse_unfit(self) -> None:
        architecture = self.metadata("general.architecture")
        kind = None
        if native.llama_model_has_encoder(self.handle):
            kind = "an encoder-decoder model"
        elif native.llama_model_is_recurrent(self.handle) or native.llama_model_is_hybrid(
            self.handle
        ):
            kind = "a recurrent model, whose state cannot be cut back"
        elif native.llama_model_is_diffusion(self.handle):
            kind = "a diffusion model"
        elif not native.llama_model_has_decoder(self.handle):
            kind = "a model that writes no text"
        elif native.llama_vocab_type(self.vocab) == _VOCABULARY_NONE:
            kind = "a model without a tokenizer"
        if kind:
            raise WeightsError(
                f"{self.path} is {kind} ({architecture}), which this engine does not run; use a "
                "GGUF file of a decoder-only transformer (Llama, Mistral, Qwen, Gemma, …)"
            )

    def _shape(self) -> Shape:
        return Shape(
            context_length=native.llama_model_n_ctx_train(self.handle),
            embedding_size=native.llama_model_n_embd_out(self.handle),
            vocabulary=native.llama_vocab_n_tokens(self.vocab),
        )

    def adapt(self, paths: Sequence[str | Path]) -> None:
        """Loads LoRA adapters for the contexts that are made from now on."""
        adapters = []
        for path in paths:
            adapter = native.llama_adapter_lora_init(self.handle, os.fsencode(path))
            if not adapter:
                raise WeightsError(
                    f"llama.cpp cannot lay the LoRA adapter {path} over {self.path}: "
                    f"{self._log.last()}. Use an adapter (GGUF) made for this model"
                )
            adapters.append(adapter)
        self._adapters = (native.llama_adapter_lora_p_ctypes * len(adapters))(*adapters)

    def fit_context(
        self, wanted: int | None, sequences: int, cells: Cells, *, force: bool = False
    ) -> int:
        """Tokens for each of `sequences`: as `wanted`, else the model's own, if memory permits."""
        return fit_context(
            self.path.name,
            wanted,
            trained=self.shape.context_length,
            sequences=sequences,
            token_bytes=cells.bytes,
            free=free_memory(),
            moving=MOVING if sequences > 1 else 0,
            multiple=CELL_PADDING,
            force=force,
        )

    def new_context(
        self,
        *,
        cells: int,
        sequences: int,
        batch_tokens: int,
        threads: int,
        embeddings: bool = False,
        flag: AbortFlag | None = None,
    ) -> Any:
        """A context with room for `cells` tokens over all its `sequences`."""
        parameters = native.llama_context_default_params()
        parameters.n_ctx = cells
        parameters.n_batch = parameters.n_ubatch = batch_tokens
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.offload_kqv = parameters.op_offload = self._gpu
        parameters.type_k = parameters.type_v = _F32 if self.float32 else _F16
        if embeddings:
            parameters.embeddings = True
            parameters.pooling_type = _MEAN_POOLED_BY_US
        if flag:
            parameters.abort_callback = flag.callback
            parameters.abort_callback_data = flag.data
        self._log.errors.clear()
        context = native.llama_init_from_model(self.handle, parameters)
        if not context:
            raise ConfigurationError(
                f"llama.cpp cannot make a context of {cells} tokens ({sequences} sequences) for "
                f"{self.path}: {self._log.last()}. Lower --context-length or --slots"
            )
        if len(self._adapters):
            scales = (ctypes.c_float * len(self._adapters))(*([1.0] * len(self._adapters)))
            native.llama_set_adapters_lora(context, self._adapters, len(self._adapters), scales)
        return context

    def last_error(self) -> str:
        return self._log.last()

    def close(self) -> None:
        if self.handle:
            native.llama_model_free(self.handle)  # its adapters with it
            self.handle = None
