"""How a conversation becomes the text that a model continues: by turns or by a Jinja template.

Owns the border between the operator's text, in which control tokens may be spelled, and the
caller's, in which they may not. Knows no tokens and no sockets; templates run in a process of
their own (`template_process`).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..core import Message
from ..errors import EngineError, InvalidField, NotSupported, OpenLLMError, StartError, WeightsError
from .control_texts import ControlTexts
from .template_process import TemplateBroken, TemplateProcess, TemplateRefused

_PROBE_TEXT = "Hello"
# A template may insist on a system message, or refuse one.
_PROBES = (
    (Message(role="user", content=_PROBE_TEXT),),
    (Message(role="system", content="Be brief."), Message(role="user", content=_PROBE_TEXT)),
)
_WAY_OUT = (
    "start these weights under a card with a prompt format of its own, such as alpaca=... "
    "(see `open-llm-server models`)"
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a prompt, tokenised on its own."""

    text: str
    control: bool
    """Spellings of control tokens in `text` become those tokens."""


class PromptFormat(Protocol):
    """What a model's conversations look like to the model."""

    async def render(self, messages: Sequence[Message]) -> list[Segment]:
        """The prompt for the next answer.

        One segment as a rule, so that it is tokenised as one text. Where a message spells a
        control token, that message's text becomes a segment of its own with `control` unset.
        Raises InvalidField for a conversation that the format cannot express, NotSupported where
        the format itself fails.
        """
        ...

    async def close(self) -> None:
        """Frees what `render` uses."""
        ...


class NoFormat:
    """For models that only embed: nobody converses with them."""

    async def render(self, messages: Sequence[Message]) -> list[Segment]:
        raise NotSupported("this model makes embeddings only; name one that chats", param="model")

    async def close(self) -> None:
        """Nothing to free."""


class TurnTexts(Protocol):
    """The texts of each turn (`config.cards.Turns`): `{content}` stands for the message's."""

    @property
    def system(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def assistant(self) -> str: ...
    @property
    def reply(self) -> str: ...
    @property
    def default_system(self) -> str | None: ...
    @property
    def between(self) -> str: ...


class TurnsFormat:
    """One text for each role, one after another, then the beginning of the reply.

    `between` stands between two turns, and not before the reply.
    """

    def __init__(self, turns: TurnTexts, control_texts: Collection[str] = ()) -> None:
        self._around = {
            "system": _split(turns.system),
            "user": _split(turns.user),
            "assistant": _split(turns.assistant),
        }
        self._reply = turns.reply
        self._default_system = turns.default_system
        self._between = turns.between
        self._controls = ControlTexts(control_texts)

    async def render(self, messages: Sequence[Message]) -> list[Segment]:
        pieces = []
        contents = []
        position = 0
        if self._default_system is not None and not any(m.role == "system" for m in messages):
            before, after = self._around["system"]
            # The operator's own words, in which control tokens may be spelled.
            pieces.append(before + self._default_system + after)
            position = len(pieces[0])
        for message in messages:
            before, after = self._around[message.role]
            if pieces:
                before = self._between + before
            begin = position + len(before)
            contents.append((begin, begin + len(message.content)))
            pieces += before, message.content, after
            position = begin + len(message.content) + len(after)
        pieces.append(self._reply)
        return separate("".join(pieces), contents, self._controls)

    async def close(self) -> None:
        """Nothing to free."""


class TemplateFormat:
    """A Jinja chat template, as GGUF files and tokenizer_config.json bring it."""

    def __init__(self, process: TemplateProcess, controls: ControlTexts) -> None:
        """See `load`, which also tries the template."""
        self._process = process
        self._controls = controls

    @classmethod
    async def load(
        cls, template: str, *, bos: str = "", eos: str = "", control_texts: Collection[str] = ()
    ) -> TemplateFormat:
        """Starts the template's process and renders a short conversation.

        `bos` and `eos` are the texts of the model's begin and end tokens. Raises WeightsError for
        a template that does not work, StartError when its process cannot be started.
        """
        process = TemplateProcess(template, {"bos_token": bos, "eos_token": eos})
        try:
            await _try(process)
        except BaseException:
            await process.close()
            raise
        return cls(process, ControlTexts(control_texts))

    async def render(self, messages: Sequence[Message]) -> list[Segment]:
        suspects = [
            index
            for index, message in enumerate(messages)
            if self._controls.first_in(message.content) or self._controls.may_join(message.content)
        ]
        try:
            if suspects:
                return await self._render_apart(messages, suspects)
            (text,) = await self._process.render([_plain(messages)])
        except (TemplateRefused, TemplateBroken, OSError, UnicodeEncodeError) as error:
            raise _refusal(error) from error
        return [Segment(text, control=True)]

    async def close(self) -> None:
        await self._process.close()

    async def _render_apart(
        self, messages: Sequence[Message], suspects: Sequence[int]
    ) -> list[Segment]:
        """Renders the conversation, and once more with marks in place of suspect contents, which
        shows where these stand in the text. Nobody can guess a mark, so nobody can forge one."""
        secret = secrets.token_hex(16)
        conversation = _plain(messages)
        marked = list(conversation)
        for index in suspects:
            marked[index] = {"role": messages[index].role, "content": f"{secret}x{index}x"}
        text, marked_text = await self._process.render([conversation, marked])
        parts = re.split(f"{secret}x([0-9]+)x", marked_text)
        contents = _locate(text, parts, messages)
        if contents is not None:
            return separate(text, contents, self._controls)
        # The template changes contents (cuts out a part, say). Harmless as long as the control
        # tokens are those of the innocent conversation, and no others.
        if self._controls.all_in(text) == self._controls.all_in(marked_text):
            return [Segment(text, control=True)]
        raise self._cannot_separate(messages, suspects)

    def _cannot_separate(
        self, messages: Sequence[Message], suspects: Sequence[int]
    ) -> InvalidField:
        for index in suspects:
            if spelling := self._controls.first_in(messages[index].content):
                return InvalidField(
                    f"messages.{index}.content spells {spelling!r}, a control token of this "
                    "model, where its chat template does not keep contents apart; take it out",
                    param=f"messages.{index}.content",
                )
        index = suspects[0]
        return InvalidField(
            f"messages.{index}.content becomes a control token of this model together with the "
            "text around it; put other characters at its beginning and its end",
            param=f"messages.{index}.content",
        )


def separate(
    text: str, contents: Sequence[tuple[int, int]], controls: ControlTexts
) -> list[Segment]:
    """Cuts the callers' `contents` (begin, end; in order) out of `text`, if control tokens use
    their characters, whole or in part; everything else stays together."""
    segments: list[Segment] = []
    position = 0
    for begin, end in contents:
        if not controls.touch(text, begin, end):
            continue
        if text[position:begin]:
            segments.append(Segment(text[position:begin], control=True))
        segments.append(Segment(text[begin:end], control=False))
        position = end
    if text[position:]:
        segments.append(Segment(text[position:], control=True))
    return segments


def _locate(
    text: str, parts: Sequence[str], messages: Sequence[Message]
) -> list[tuple[int, int]] | None:
    """Where `text` holds the contents of messages, whole or trimmed; `None` if something else
    stands there. `parts`: literal text, then alternately a message's index and literal text."""
    if not text.startswith(parts[0]):
        return None
    position = len(parts[0])
    contents = []
    for index, literal in zip(parts[1::2], parts[2::2], strict=True):
        for variant in _trims(messages[int(index)].content):
            end = position + len(variant)
            if text.startswith(variant, position) and text.startswith(literal, end):
                break
        else:
            return None
        contents.append((position, end))
        position = end + len(literal)
    return contents if position == len(text) else None


def _trims(content: str) -> tuple[str, ...]:
    return (
        content,
        content.strip(),
        content.rstrip(),
        content.lstrip(),
        content.strip("\n"),
        content.rstrip("\n"),
        content.lstrip("\n"),
    )


async def _try(process: TemplateProcess) -> None:
    refusal = ""
    for probe in _PROBES:
        try:
            (text,) = await process.render([_plain(probe)])
        except TemplateRefused as error:
            refusal = f"it refuses every conversation: {error}"
            continue
        except TemplateBroken as error:
            raise _unusable(str(error)) from error
        except OSError as error:
            raise StartError(f"the model's chat template cannot be tried: {error}") from error
        if _PROBE_TEXT in text:
            return
        refusal = "it leaves the user's message out"
    raise _unusable(refusal)


def _unusable(why: str) -> WeightsError:
    return WeightsError(f"the chat template of these weights does not work: {why}; {_WAY_OUT}")


def _refusal(error: Exception) -> OpenLLMError:
    if isinstance(error, TemplateRefused):
        return InvalidField(
            f"the model's chat template refuses this conversation: {error}", param="messages"
        )
    if isinstance(error, UnicodeEncodeError):
        return InvalidField(
            "a message holds half a surrogate pair, which is no character; take it out",
            param="messages",
        )
    if isinstance(error, TemplateBroken):
        return NotSupported(
            f"the model's chat template fails on this conversation: {error}; send the whole "
            f"prompt to /complete, or {_WAY_OUT}",
            param="messages",
        )
    return EngineError(f"the model's chat template cannot be rendered now: {error}; try again")


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _split(turn: str) -> tuple[str, str]:
    before, mark, after = turn.partition("{content}")
    if not mark:
        raise StartError(f"the turn {turn!r} has no {{content}} in it; correct the model's card")
    return before, after
