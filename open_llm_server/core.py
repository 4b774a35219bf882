"""The nouns that every part shares: messages, sampling values, requests, usage.

Owns their types and bounds, and nothing else: no wire format, no engine, no I/O. Whatever
door a request came through, it has become one of these before anyone acts on it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# Bounds that every door shares: a number out of range is refused by name, never clipped.
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_MESSAGES = 2048
MAX_INPUTS = 2048

Temperature = Annotated[
    float, Field(ge=0.0, le=2.0, description="Randomness of the choice; 0 is greedy.")
]
TopK = Annotated[
    int, Field(ge=0, le=1_000_000, description="Draw from the k likeliest tokens; 0: no limit.")
]
TopP = Annotated[
    float, Field(ge=0.0, le=1.0, description="Draw from the likeliest tokens of this total mass.")
]
MinP = Annotated[
    float,
    Field(ge=0.0, le=1.0, description="Drop tokens below this share of the likeliest one's."),
]
MaxTokens = Annotated[int, Field(ge=0, le=1_000_000, description="Stop after so many new tokens.")]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
StopSequence = Annotated[
    tuple[StopText, ...],
    Field(max_length=16, description="Stop before any of these texts (repeatable)."),
]
FrequencyPenalty = Annotated[
    float,
    Field(ge=-2.0, le=2.0, description="Lowers a new token's chance by how often it was chosen."),
]
PresencePenalty = Annotated[
    float,
    Field(ge=-2.0, le=2.0, description="Lowers a new token's chance once it has been chosen."),
]
RepetitionPenalty = Annotated[
    float,
    Field(ge=0.01, le=10.0, description="Divides the logits of tokens seen so far; 1: none."),
]
Seed = Annotated[
    int,
    Field(ge=-(2**63), le=2**63 - 1, description="The same seed draws the same text again."),
]
NumBeams = Annotated[
    int,
    Field(
        ge=1,
        le=16,
        description="Width of a beam search instead of drawing; encoder-decoder models only.",
    ),
]
TokenIds = Annotated[
    tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...], Field(min_length=1, max_length=1_000_000)
]


class Noun(BaseModel):
    """Frozen, strict, closed: a value that cannot be half right."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Message(Noun):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(Noun):
    """How to choose tokens. `None` means: the model's configured value."""

    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: TopP | None = None
    min_p: MinP | None = None
    max_tokens: MaxTokens | None = None
    stop_sequence: StopSequence | None = None
    frequency_penalty: FrequencyPenalty | None = None
    presence_penalty: PresencePenalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: Seed | None = None
    num_beams: NumBeams | None = None


SAMPLING_FIELDS: tuple[str, ...] = tuple(Sampling.model_fields)


class ChatRequest(Noun):
    """A conversation that wants its next turn, `n` times."""

    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=MAX_MESSAGES)]
    sampling: Sampling = Sampling()
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """Report each chosen token's log-probability and this many alternatives."""


class CompletionRequest(Noun):
    """Texts (or token ids) to continue, each `n` times.

    Choice `p * n + i` of the answer is continuation `i` of prompt `p`.
    """

    prompts: Annotated[tuple[str | TokenIds, ...], Field(min_length=1, max_length=MAX_CHOICES)]
    sampling: Sampling = Sampling()
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool = False
    """Give the prompt back before its continuation, scored too when `logprobs` is set."""


class EmbedRequest(Noun):
    """Texts (or token ids) to turn into vectors."""

    inputs: Annotated[tuple[str | TokenIds, ...], Field(min_length=1, max_length=MAX_INPUTS)]


class InfoRequest(Noun):
    """Asks a runner what it serves and how it is doing."""


Request = ChatRequest | CompletionRequest | EmbedRequest | InfoRequest


class Usage(Noun):
    """Tokens read and written. `cached_tokens` of the prompt were not evaluated again."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


FinishReason = Literal["stop", "length"]
