"""The table of routes: a wire format is one file and its lines here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel

from . import native, openai_chat, openai_completions, openai_embeddings
from .ask import Ask
from .wire import Wire


@dataclass(frozen=True)
class GenerateRoute:
    """A POST route: how its body is read, and what documents it."""

    path: str
    read: Callable[[bytes], Ask]
    body: type[Wire]
    answer: type[BaseModel]
    summary: str
    streams: bool = True
    always_streams: bool = False


GENERATE: tuple[GenerateRoute, ...] = (
    GenerateRoute(
        "/chat",
        native.read_chat,
        native.ChatBody,
        native.ChatAnswer,
        "The answer to a prompt, or the next turn of a conversation.",
    ),
    GenerateRoute(
        "/chat-sse",
        native.read_chat_sse,
        native.ChatBody,
        native.ChatAnswer,
        "The same, always as server-sent events.",
        always_streams=True,
    ),
    GenerateRoute(
        "/complete",
        native.read_complete,
        native.CompleteBody,
        native.CompleteAnswer,
        "Continuations of a text.",
    ),
    GenerateRoute(
        "/embed",
        native.read_embed,
        native.EmbedBody,
        native.EmbedAnswer,
        "A vector for each text.",
        streams=False,
    ),
    GenerateRoute(
        "/v1/chat/completions",
        openai_chat.read,
        openai_chat.ChatCompletionBody,
        openai_chat.ChatCompletionAnswer,
        "OpenAI's chat completions.",
    ),
    GenerateRoute(
        "/v1/completions",
        openai_completions.read,
        openai_completions.CompletionBody,
        openai_completions.CompletionAnswer,
        "OpenAI's completions.",
    ),
    GenerateRoute(
        "/v1/embeddings",
        openai_embeddings.read,
        openai_embeddings.EmbeddingsBody,
        openai_embeddings.EmbeddingsAnswer,
        "OpenAI's embeddings.",
        streams=False,
    ),
)
