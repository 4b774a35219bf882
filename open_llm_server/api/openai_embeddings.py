"""POST /v1/embeddings: bodies to requests, vectors to numbers or base64.

Knows no HTTP and no port.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from .. import core
from ..errors import NotSupported
from ..gather import Gathered, embed_answer
from .ask import Ask, Signature, renamer
from .fields import Inputs, listed
from .wire import Wire, ignored_names, noun, parse


class EmbeddingsBody(Wire):
    """Texts (or token ids) to turn into vectors."""

    model: str | None = Field(
        default=None, description="Which model answers; without it, the first one started."
    )
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Only the model's own number of dimensions."
    )
    user: str | None = Field(default=None, description="Accepted; nothing is done with it.")


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


def read(body: bytes) -> Ask:
    sent = parse(EmbeddingsBody, body)
    inputs, single = listed(sent.input)

    def whole(gathered: Gathered, signature: Signature) -> dict[str, Any]:
        return _answer(gathered, signature, sent)

    return Ask(
        request=noun(core.EmbedRequest, inputs=inputs),
        model=sent.model,
        whole=whole,
        ignored=tuple(ignored_names(sent)),
        rename=renamer("input", "input", single=single),
    )


def _answer(gathered: Gathered, signature: Signature, sent: EmbeddingsBody) -> dict[str, Any]:
    answer = embed_answer(gathered)
    if sent.dimensions not in (None, answer.dimension):
        raise NotSupported(
            f"dimensions: this model's vectors have {answer.dimension} and are not shortened",
            param="dimensions",
        )
    packed = sent.encoding_format == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _base64(vector) if packed else vector,
        }
        for index, vector in enumerate(answer.embeddings)
    ]
    tokens = {
        "prompt_tokens": answer.usage.prompt_tokens,
        "total_tokens": answer.usage.total_tokens,
    }
    return {"object": "list", "model": signature.model, "data": data, "usage": tokens}


def _base64(vector: Sequence[float]) -> str:
    """Little-endian 32-bit floats, as OpenAI's clients expect."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
