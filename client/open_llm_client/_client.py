"""The client: the calls of the server for threads, and their twins for tasks.

Arguments in, answers out. Knows requests, and neither HTTP nor gRPC.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from . import _requests
from ._answers import ChatAnswer, CompleteAnswer, EmbedAnswer, Health, Model
from ._calls import Calls
from ._conversation import Conversation
from ._endpoint import endpoint
from ._requests import Input, Messages, Request
from ._streams import AsyncStream, Ended, Stream, nobody

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._requests import Generation

TIMEOUT_S = 600.0
MOST_RETRIES = 100


class Client:
    """What `create` gives. One for a whole program: threads and event loops may share it.

    Every call takes `timeout` (seconds for all of it, further tries and the last byte of a stream
    included) and `request_id` (what the server's log shall call it). Every call raises
    OpenLLMError, and TypeError or ValueError for arguments that cannot be sent.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT_S,
        retries: int = 2,
        model: str | None = None,
        verify: bool | str | os.PathLike[str] = True,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if type(retries) is not int or not 0 <= retries <= MOST_RETRIES:
            raise ValueError(f"retries: want 0 (none) to {MOST_RETRIES}, not {retries!r}")
        self._endpoint = endpoint(url, api_key, headers, verify)
        self._calls = Calls(self._endpoint, timeout=timeout, retries=retries)
        self._model = _requests.checked_model(model)

    @property
    def url(self) -> str:
        return self._endpoint.url

    @overload
    def chat(
        self,
        prompt: str | None = None,
        *,
        messages: Messages | None = None,
        stream: Literal[False] = False,
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Unpack[Generation],
    ) -> ChatAnswer: ...
    @overload
    def chat(
        self,
        prompt: str | None = None,
        *,
        messages: Messages | None = None,
        stream: Literal[True],
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Unpack[Generation],
    ) -> Stream[ChatAnswer]: ...
    def chat(
        self,
        prompt: str | None = None,
        *,
        messages: Messages | None = None,
        stream: bool = False,
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Any,
    ) -> ChatAnswer | Stream[ChatAnswer]:
        """The next turn after `prompt` (one text) or `messages` (a conversation).

        Further keywords are those of `Generation`: `temperature`, `top_k`, `max_tokens` and so
        on. With `stream=True`, an iterator of deltas, as soon as the server has accepted it.
        """
        return self._chat(prompt, messages, model, timeout, request_id, generation, stream)

    @overload
    async def async_chat(
        self,
        prompt: str | None = None,
        *,
        messages: Messages | None = None,
        stream: Literal[False] = False,
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Unpack[Generation],
    ) -> ChatAnswer: ...
    @overload
    async def async_chat(
        self,
        prompt: str | None = None,
        *,
        messages: Messages | None = None,
        stream: Literal[True],
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Unpack[Generation],
    ) -> AsyncStream[ChatAnswer]: ...
    async def async_chat(
        self,
        prompt: str | None = None,
        *,
        messages: Messages | None = None,
        stream: bool = False,
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Any,
    ) -> ChatAnswer | AsyncStream[ChatAnswer]:
        """`chat` for tasks."""
        return await self._async_chat(
            prompt, messages, model, timeout, request_id, generation, stream
        )

    @overload
    def complete(
        self,
        prompt: str,
        *,
        n: int | None = None,
        stream: Literal[False] = False,
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Unpack[Generation],
    ) -> CompleteAnswer: ...
    @overload
    def complete(
        self,
        prompt: str,
        *,
        n: int | None = None,
        stream: Literal[True],
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Unpack[Generation],
    ) -> Stream[CompleteAnswer]: ...
    def complete(
        self,
        prompt: str,
        *,
        n: int | None = None,
        stream: bool = False,
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Any,
    ) -> CompleteAnswer | Stream[CompleteAnswer]:
        """`prompt`, continued `n` times; keywords as for `chat`."""
        request = _requests.complete(prompt, n, self._chosen(model), generation, stream=stream)
        if stream:
            return self._calls.stream(request, timeout, request_id)
        return cast(CompleteAnswer, self._calls.run(request, timeout, request_id))

    @overload
    async def async_complete(
        self,
        prompt: str,
        *,
        n: int | None = None,
        stream: Literal[False] = False,
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Unpack[Generation],
    ) -> CompleteAnswer: ...
    @overload
    async def async_complete(
        self,
        prompt: str,
        *,
        n: int | None = None,
        stream: Literal[True],
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Unpack[Generation],
    ) -> AsyncStream[CompleteAnswer]: ...
    async def async_complete(
        self,
        prompt: str,
        *,
        n: int | None = None,
        stream: bool = False,
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Any,
    ) -> CompleteAnswer | AsyncStream[CompleteAnswer]:
        """`complete` for tasks."""
        request = _requests.complete(prompt, n, self._chosen(model), generation, stream=stream)
        if stream:
            return await self._calls.async_stream(request, timeout, request_id)
        return cast(CompleteAnswer, await self._calls.async_run(request, timeout, request_id))

    def embed(
        self,
        input: Input,
        *,
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> EmbedAnswer:
        """One vector for each input: a text, a list of texts, or lists of token ids."""
        request = _requests.embed(input, self._chosen(model))
        return cast(EmbedAnswer, self._calls.run(request, timeout, request_id))

    async def async_embed(
        self,
        input: Input,
        *,
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> EmbedAnswer:
        """`embed` for tasks."""
        request = _requests.embed(input, self._chosen(model))
        return cast(EmbedAnswer, await self._calls.async_run(request, timeout, request_id))

    def models(self, *, timeout: float | None = None, request_id: str | None = None) -> list[Model]:
        """The models that the server has, and how they are."""
        return cast("list[Model]", self._calls.run(_MODELS, timeout, request_id))

    async def async_models(
        self, *, timeout: float | None = None, request_id: str | None = None
    ) -> list[Model]:
        """`models` for tasks."""
        return cast("list[Model]", await self._calls.async_run(_MODELS, timeout, request_id))

    def health(self, *, timeout: float | None = None, request_id: str | None = None) -> Health:
        """Whether every model can answer. A server that cannot be reached raises."""
        return cast(Health, self._calls.run(_HEALTH, timeout, request_id))

    async def async_health(
        self, *, timeout: float | None = None, request_id: str | None = None
    ) -> Health:
        """`health` for tasks."""
        return cast(Health, await self._calls.async_run(_HEALTH, timeout, request_id))

    def conversation(
        self,
        system: str | None = None,
        *,
        model: str | None = None,
        **generation: Unpack[Generation],
    ) -> Conversation:
        """Keeps the history; the keywords go for all its questions."""
        return Conversation(self, system=system, model=model, generation=dict(generation))

    def close(self) -> None:
        """Closes the connections of threads; those of an event loop end with it, or by aclose."""
        self._calls.close()

    async def aclose(self) -> None:
        """Closes the connections of threads and of the running event loop."""
        await self._calls.aclose()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _chosen(self, model: str | None) -> str | None:
        return self._model if model is None else model

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def _chat(
        self,
        prompt: str | None,
        messages: Messages | None,
        model: str | None,
        timeout: float | None,
        request_id: str | None,
        generation: Mapping[str, Any],
        stream: bool,
        ended: Ended = nobody,
    ) -> ChatAnswer | Stream[ChatAnswer]:
        request = _requests.chat(prompt, messages, self._chosen(model), generation, stream=stream)
        if stream:
            return self._calls.stream(request, timeout, request_id, ended)
        return cast(ChatAnswer, self._calls.run(request, timeout, request_id))

    async def _async_chat(
        self,
        prompt: str | None,
        messages: Messages | None,
        model: str | None,
        timeout: float | None,
        request_id: str | None,
        generation: Mapping[str, Any],
        stream: bool,
        ended: Ended = nobody,
    ) -> ChatAnswer | AsyncStream[ChatAnswer]:
        request = _requests.chat(prompt, messages, self._chosen(model), generation, stream=stream)
        if stream:
            return await self._calls.async_stream(request, timeout, request_id, ended)
        return cast(ChatAnswer, await self._calls.async_run(request, timeout, request_id))


_MODELS = Request("models", {})
_HEALTH = Request("health", {})
