"""From a request's words to tokens that fit: the pre-prompt, the prompt format, the suffix.

Owns what is refused on the way and under which name. Knows no worker, no frames and no sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .core import ChatRequest, CompletionRequest, EmbedRequest, Message
from .engine.base import Engine
from .engine.prompts import PromptFormat, Segment
from .engine.suffix import ended, input_suffix
from .errors import ContextLengthExceeded, InvalidField
from .generation import Prompt

Made = TypeVar("Made")


class Prompting:
    """Prompts and inputs for one model."""

    def __init__(
        self, *, engine: Engine, prompt_format: PromptFormat, preprompt: str | None, model: str
    ) -> None:
        """`model` is its name in refusals."""
        self._engine = engine
        self._format = prompt_format
        self._preprompt = preprompt
        self._model = model
        # Tokenisers are native code: off the loop, but two at a time are enough.
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tokenize")

    async def prompts(self, request: ChatRequest | CompletionRequest) -> list[Prompt]:
        """One prompt of a conversation, or one for each text.

        Raises InvalidField, NotSupported or ContextLengthExceeded with the place in the request.
        """
        if isinstance(request, ChatRequest):
            return [await self._chat_prompt(request)]
        return [
            await self._text_prompt(prompt, index, apart=request.echo)
            for index, prompt in enumerate(request.prompts)
        ]

    async def inputs(self, request: EmbedRequest) -> tuple[list[Sequence[int]], int]:
        """Tokens of what is to be embedded, and how many the model will read.

        `Engine.embed` itself adds what ends an input; there is room for it.
        """
        limits = self._engine.limits
        suffix = input_suffix(limits)
        inputs: list[Sequence[int]] = []
        count = 0
        for index, text in enumerate(request.inputs):
            param = f"input.{index}"
            tokens = await self._tokens(text, param)
            if not tokens:
                raise InvalidField("an input to embed must not be empty", param=param)
            length = len(ended(tokens, suffix))
            self._check_length(length, limits.context_length, param, what="input")
            inputs.append(tokens)
            count += length
        return inputs, count

    async def stop(self) -> None:
        """Returns when no tokeniser runs any more; prompts cannot be made afterwards."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def close(self) -> None:
        """Frees the prompt format."""
        await self._format.close()

    async def _chat_prompt(self, request: ChatRequest) -> Prompt:
        messages = with_preprompt(request.messages, self._preprompt)
        segments = await self._format.render(messages)
        try:
            tokens = await self._in_thread(lambda: chat_tokens(self._engine, segments))
        except ContextLengthExceeded as error:
            error.param = "messages"
            raise
        return self._prompt("", tokens, "messages")

    async def _text_prompt(self, prompt: str | Sequence[int], index: int, *, apart: bool) -> Prompt:
        """The operator's pre-prompt and the caller's text; `apart`: with a border in tokens."""
        param, head = f"prompt.{index}", self._preprompt
        text = prompt if isinstance(prompt, str) else None
        if not head:
            return self._prompt(text, await self._tokens(prompt, param), param)
        if isinstance(prompt, str) and not apart:
            return self._prompt(text, await self._tokens(head + prompt, param), param)
        first = await self._tokens(head, param)
        rest = await self._tokens(prompt, param, begin=False)
        return self._prompt(text, [*first, *rest], param, skip=len(first))

    def _prompt(self, text: str | None, tokens: list[int], param: str, *, skip: int = 0) -> Prompt:
        if not tokens:
            raise InvalidField(
                "the prompt is empty, and this model has no begin token to start from; "
                "send some text",
                param=param,
            )
        limits = self._engine.limits
        tokens = ended(tokens, limits.prompt_suffix)
        # One place must be left for the first new token.
        self._check_length(len(tokens), limits.context_length - 1, param)
        return Prompt(text=text, tokens=tokens, skip=skip)

    async def _tokens(
        self, prompt: str | Sequence[int], param: str, *, begin: bool = True
    ) -> list[int]:
        if isinstance(prompt, str):
            try:
                return await self._in_thread(
                    lambda: self._engine.tokenize(prompt, begin=begin, control=False)
                )
            except ContextLengthExceeded as error:
                error.param = param
                raise
            except ValueError as unfit:
                raise InvalidField(
                    f"this text cannot be turned into tokens: {unfit}", param=param
                ) from unfit
        vocabulary = self._engine.limits.vocabulary
        for place, token in enumerate(prompt):
            if token >= vocabulary:
                raise InvalidField(
                    f"token id {token} is outside of this model's vocabulary of {vocabulary}",
                    param=f"{param}.{place}",
                )
        return list(prompt)

    def _check_length(self, count: int, room: int, param: str, *, what: str = "prompt") -> None:
        if count <= room:
            return
        limits = self._engine.limits
        held = ", answer included" if what == "prompt" else ""
        # The positions of a model that only embeds are learned: there are no more of them.
        more = ", or start the server with a larger --context-length" if limits.generates else ""
        raise ContextLengthExceeded(
            f"the {what} is {count} tokens long and model '{self._model}' holds "
            f"{limits.context_length}{held}; shorten it{more}",
            param=param,
            n_prompt_tokens=count,
            n_ctx=limits.context_length,
        )

    async def _in_thread(self, make: Callable[[], Made]) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._threads, make)


def with_preprompt(messages: Sequence[Message], preprompt: str | None) -> list[Message]:
    """The operator's pre-prompt comes first, ahead of the caller's own system message."""
    if not preprompt:
        return list(messages)
    head, *rest = messages
    if head.role == "system":
        return [Message(role="system", content=f"{preprompt}\n\n{head.content}"), *rest]
    return [Message(role="system", content=preprompt), *messages]


def chat_tokens(engine: Engine, segments: Sequence[Segment]) -> list[int]:
    """Tokens of a rendered conversation, begin token once."""
    tokens: list[int] = []
    for index, segment in enumerate(segments):
        tokens += engine.tokenize(segment.text, begin=index == 0, control=segment.control)
    # Templates that spell out the begin token meet tokenisers that add it.
    if len(tokens) > 1 and tokens[0] == tokens[1] and not engine.piece(tokens[0]):
        del tokens[0]
    return tokens
