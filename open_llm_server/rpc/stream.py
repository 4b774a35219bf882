"""A stream's messages, made from frames. Pure.

Pieces of one choice that are ready together travel as one message: each costs both ends the same,
however long it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..api.ask import Ask, Signature
from ..api.collect import Collector
from ..frames import Delta, End, Frame, Start
from . import messages, v1

Event = v1.StreamStart | v1.StreamDelta | v1.StreamEnd


class Events:
    """Of one answer."""

    def __init__(self, ask: Ask, signature: Signature) -> None:
        self._ask = ask
        self._signature = signature
        self._collector = Collector()
        self._begun = False
        self._tokens: dict[int, int] = {}
        """Of each choice: new tokens whose text has not come yet."""

    def of(self, frames: Sequence[Frame]) -> Iterator[Event]:
        """What is to be sent for `frames`."""
        texts: dict[int, list[str]] = {}
        for frame in frames:
            match frame:
                case Start():
                    yield from self._start(frame.prompt_tokens)
                case Delta():
                    yield from self._start(0)
                    self._add(frame, texts)
                case End():
                    yield from self._start(frame.usage.prompt_tokens)
                    yield from self._deltas(texts)
                    texts = {}
                    yield self._end(frame)
                case _:
                    pass
        yield from self._deltas(texts)

    def _start(self, prompt_tokens: int) -> Iterator[Event]:
        if not self._begun:
            self._begun = True
            yield v1.StreamStart(
                id=self._signature.id, model=self._signature.model, prompt_tokens=prompt_tokens
            )

    def _add(self, delta: Delta, texts: dict[int, list[str]]) -> None:
        self._collector.add(delta)
        self._tokens[delta.index] = self._tokens.get(delta.index, 0) + delta.tokens
        if delta.text:
            texts.setdefault(delta.index, []).append(delta.text)

    def _deltas(self, texts: dict[int, list[str]]) -> Iterator[Event]:
        for index, pieces in texts.items():
            tokens = self._tokens.pop(index, 0)
            yield v1.StreamDelta(index=index, text="".join(pieces), tokens=tokens)

    def _end(self, end: End) -> Event:
        answer = self._ask.whole(self._collector.gathered(end), self._signature)
        return messages.stream_end(answer)
