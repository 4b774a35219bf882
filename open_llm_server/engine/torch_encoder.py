"""Engine for encoders on torch, which make embeddings and nothing else.

An input is packed beside others, never cut and never padded, and pooled as the files beside its
weights say (sentence-transformers' own). Knows no requests and no callers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigurationError, ContextLengthExceeded, EngineError
from .base import Batch, Limits, Outcome
from .fit_torch import ENCODER_BATCH_TOKENS
from .sentence_files import SentenceFiles, read_sentence_files
from .suffix import ended, input_suffix
from .torch_bert import Bert, Span
from .torch_checkpoint import Checkpoint, read_checkpoint
from .torch_load import choose_dtype, load_model
from .torch_parts import Kind
from .torch_vocab import Vocabulary
from .vocabulary import VocabularyEngine


class EncoderEngine(VocabularyEngine):
    """One encoder. See `Engine` for who may call what; there is nothing to step."""

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        model_types: Collection[str],
        context_length: int | None,
        slots: int,
        threads: int,
        device: str = "cpu",
        dtype: str = "float32",
        lora: Sequence[str | Path] = (),
    ) -> EncoderEngine:
        """Loads the checkpoint in `folder`.

        `context_length` None: what the model was made for. `device` as in a plan (`cpu`, `gpu:0`,
        `mps`), of which this process sees its own only. Raises WeightsError or ConfigurationError.
        """
        torch.set_num_threads(threads)
        checkpoint = read_checkpoint(folder, model_types=model_types)
        files = read_sentence_files(folder)
        place = _place(device)
        number = choose_dtype(dtype, place)
        model = load_model(checkpoint, dtype=number, device=place, lora=lora)
        # Elsewhere packing gains nothing.
        kind: Kind = "packed" if place == "cpu" and number == torch.bfloat16 else "plain"
        return cls(
            Bert(model.base_model, kind=kind),
            checkpoint=checkpoint,
            files=files,
            context_length=context_length,
            slots=slots,
        )

    def __init__(
        self,
        bert: Bert,
        *,
        checkpoint: Checkpoint,
        files: SentenceFiles,
        context_length: int | None,
        slots: int,
    ) -> None:
        if context_length and context_length > bert.positions:
            raise ConfigurationError(
                f"context length {context_length} is more than the {bert.positions} positions "
                f"that this model has; set --context-length to {bert.positions} or less",
                param="context_length",
            )
        self._bert: Bert | None = bert
        self._files = files
        vocabulary = Vocabulary(checkpoint)
        length = context_length or min(files.most_tokens or bert.positions, bert.positions)
        limits = Limits(
            context_length=length,
            slots=slots,
            batch_tokens=max(ENCODER_BATCH_TOKENS, length),
            vocabulary=vocabulary.size,
            end_tokens=vocabulary.end_tokens,
            embedding_size=bert.width,
            pooling=files.pooling,
            prompt_suffix=tuple(vocabulary.suffix),
            generates=False,
        )
        super().__init__(vocabulary, limits)

    # -- facts and text, from any thread --------------------------------------------------

    @property
    def chat_template(self) -> None:
        return None

    def tokenize(self, text: str, *, begin: bool, control: bool) -> list[int]:
        if self._files.lower_case:
            text = text.lower()
        return super().tokenize(text, begin=begin, control=control)

    def abort(self) -> None:
        """Nothing to leave: there are no steps."""

    # -- the engine's thread --------------------------------------------------------------

    def step(self, batch: Batch) -> list[Outcome]:
        if batch.rows:
            raise RuntimeError("an encoder makes embeddings only and continues no text")
        return []

    def forget(self, slot: int) -> None:
        """No slot holds anything."""

    @torch.inference_mode()
    def embed(
        self, inputs: Sequence[Sequence[int]], *, between: Callable[[], None] = lambda: None
    ) -> list[list[float]]:
        """See Engine.embed. Puts the end token behind inputs that lack it."""
        suffix = input_suffix(self._limits)
        whole = [ended(tokens, suffix) for tokens in inputs]
        for tokens in whole:
            self._refuse_long(len(tokens))
        vectors: list[list[float]] = [[] for _ in inputs]
        for places in self._passes(whole):
            made = self._vectors([whole[place] for place in places], between)
            for place, vector in zip(places, made, strict=True):
                vectors[place] = vector
        return vectors

    def close(self) -> None:
        self._bert = None

    # -- parts ----------------------------------------------------------------------------

    def _refuse_long(self, length: int) -> None:
        room = self._limits.context_length
        if length > room:
            raise ContextLengthExceeded(
                f"the input is {length} tokens long and the model holds {room}; shorten it, or "
                "embed its parts one by one",
                n_prompt_tokens=length,
                n_ctx=room,
            )

    def _passes(self, inputs: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Places of inputs that are computed together, the shortest first: attention wants
        inputs of one length side by side."""
        taken: list[int] = []
        tokens = 0
        for place in sorted(range(len(inputs)), key=lambda place: len(inputs[place])):
            tokens += len(inputs[place])
            if taken and tokens > self._limits.batch_tokens:
                yield taken
                taken, tokens = [], len(inputs[place])
            taken.append(place)
        if taken:
            yield taken

    def _vectors(
        self, inputs: Sequence[Sequence[int]], between: Callable[[], None]
    ) -> list[list[float]]:
        assert self._bert is not None
        states, spans = self._bert.states(inputs, between)
        pooled = torch.cat([self._pooled(states, span) for span in spans])
        if not torch.isfinite(pooled).all():
            raise EngineError("the model's embedding of this input is not a number")
        vectors: list[list[float]] = F.normalize(pooled, dim=-1).tolist()
        return vectors

    def _pooled(self, states: Tensor, span: Span) -> Tensor:
        """[inputs, width] in float32."""
        width = states.shape[-1]
        inputs = states[span.start : span.stop].view(span.count, span.length, width).float()
        return inputs[:, 0] if self._files.pooling == "cls" else inputs.mean(dim=1)


def _place(device: str) -> str:
    """What torch calls the device of a plan, in a process that sees its own GPU only."""
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    return "cuda:0" if device.startswith("gpu") else device
