"""Frames put together as they come, for answers in one piece and for last events of streams."""

from __future__ import annotations

from ..core import FinishReason
from ..frames import Delta, Embeddings, End, Frame, TokenScore
from ..gather import Choice, Gathered
from .answer import Answer


class Collector:
    """Texts by choice; a choice is known once its first delta came."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}
        self._scores: dict[int, list[TokenScore]] = {}
        self._reasons: dict[int, FinishReason] = {}
        self._embeddings: Embeddings | None = None

    def add(self, frame: Frame) -> None:
        if isinstance(frame, Embeddings):
            self._embeddings = frame
        elif isinstance(frame, Delta):
            self._texts.setdefault(frame.index, []).append(frame.text)
            if frame.scores:
                self._scores.setdefault(frame.index, []).extend(frame.scores)
            if frame.reason is not None:
                self._reasons[frame.index] = frame.reason

    def gathered(self, end: End) -> Gathered:
        """The whole; a choice that never said why it ended is left out, as unfinished."""
        choices = tuple(
            Choice(
                text="".join(self._texts[index]),
                finish_reason=reason,
                scores=tuple(self._scores.get(index, ())),
            )
            for index, reason in sorted(self._reasons.items())
        )
        return Gathered(
            choices=choices,
            embeddings=self._embeddings,
            usage=end.usage,
            timings=end.timings,
            configuration=end.configuration,
        )


async def collected(answer: Answer) -> Gathered:
    """The whole of an answer in one piece. Raises what it ended with."""
    await answer.open()
    collector = Collector()
    while True:
        for frame in await answer.take():
            collector.add(frame)
            if isinstance(frame, End):
                return collector.gathered(frame)
