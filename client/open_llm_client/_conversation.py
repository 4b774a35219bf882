"""A conversation that keeps its history. Knows the client's calls, and nothing below them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from ._answers import ChatAnswer
from ._requests import sampling
from ._streams import AsyncStream, Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._client import Client
    from ._requests import Generation


class Conversation:
    """What `client.conversation()` gives. `messages` is the history, yours to look at and to edit.

    A question and its answer join the history together, once the answer is whole. When it fails,
    or its stream is closed half-way, the history is as it was before the question. Nothing is
    ever left out to make room: a history that has become too long raises ContextLengthExceeded.
    """

    def __init__(
        self,
        client: Client,
        *,
        system: str | None = None,
        model: str | None = None,
        generation: Mapping[str, Any],
    ) -> None:
        sampling(generation, "conversation")
        self._client = client
        self._model = model
        self._generation = dict(generation)
        self._asking = threading.Lock()
        self.messages: list[dict[str, str]] = []
        if system is not None:
            self.messages.append({"role": "system", "content": system})

    @overload
    def say(
        self,
        text: str,
        *,
        stream: Literal[False] = False,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Unpack[Generation],
    ) -> ChatAnswer: ...
    @overload
    def say(
        self,
        text: str,
        *,
        stream: Literal[True],
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Unpack[Generation],
    ) -> Stream[ChatAnswer]: ...
    def say(
        self,
        text: str,
        *,
        stream: bool = False,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Any,
    ) -> ChatAnswer | Stream[ChatAnswer]:
        """The answer to `text`. Keywords go before those of the conversation.

        Raises OpenLLMError, and RuntimeError while another answer is still open.
        """
        turn = self._begin(text, generation)
        try:
            answer = self._client._chat(
                None,
                turn.messages,
                model=self._model,
                timeout=timeout,
                request_id=request_id,
                generation={**self._generation, **generation},
                stream=stream,
                ended=turn.end,
            )
        except BaseException:
            turn.end(None)
            raise
        if isinstance(answer, ChatAnswer):
            turn.end(answer)
        return answer

    @overload
    async def async_say(
        self,
        text: str,
        *,
        stream: Literal[False] = False,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Unpack[Generation],
    ) -> ChatAnswer: ...
    @overload
    async def async_say(
        self,
        text: str,
        *,
        stream: Literal[True],
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Unpack[Generation],
    ) -> AsyncStream[ChatAnswer]: ...
    async def async_say(
        self,
        text: str,
        *,
        stream: bool = False,
        timeout: float | None = None,
        request_id: str | None = None,
        **generation: Any,
    ) -> ChatAnswer | AsyncStream[ChatAnswer]:
        """`say` for tasks."""
        turn = self._begin(text, generation)
        try:
            answer = await self._client._async_chat(
                None,
                turn.messages,
                model=self._model,
                timeout=timeout,
                request_id=request_id,
                generation={**self._generation, **generation},
                stream=stream,
                ended=turn.end,
            )
        except BaseException:
            turn.end(None)
            raise
        if isinstance(answer, ChatAnswer):
            turn.end(answer)
        return answer

    def _begin(self, text: str, generation: Mapping[str, Any]) -> _Turn:
        sampling(generation, "say")
        if not self._asking.acquire(blocking=False):
            raise RuntimeError(
                "this conversation waits for an answer; read its stream to the end, or close it, "
                "before you say more"
            )
        return _Turn(self, text)

    def __repr__(self) -> str:
        return f"Conversation({len(self.messages)} messages)"


class _Turn:
    """A question that has no answer yet."""

    def __init__(self, conversation: Conversation, text: str) -> None:
        self._conversation = conversation
        self._question = {"role": "user", "content": text}
        self._open = True
        self.messages = [*conversation.messages, self._question]

    def end(self, answer: ChatAnswer | None) -> None:
        """Once, whatever is told after that."""
        if not self._open:
            return
        self._open = False
        if answer is not None:
            reply = {"role": "assistant", "content": answer.message}
            self._conversation.messages += [self._question, reply]
        self._conversation._asking.release()
