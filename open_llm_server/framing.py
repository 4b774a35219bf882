"""From a ticket's updates to the frames that answer its call. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .core import Usage
from .engine.base import Engine
from .engine.ticket import Piece, PromptScores, Started, Ticket, Update, Vectors, Waiting
from .frames import Delta, Frame, Queued, Start, TokenScore
from .generation import Prompt


class Echoes:
    """Gives each choice its prompt back before its first text."""

    def __init__(
        self, prompts: Sequence[Prompt], choices: int, engine: Engine, *, scored: bool
    ) -> None:
        self._scored = scored
        self._prompts = prompts
        self._choices = choices
        self._engine = engine
        self._scores: dict[int, list[TokenScore]] = {}
        self._done: set[int] = set()

    def collect(self, update: PromptScores) -> None:
        self._scores.setdefault(update.index, []).extend(update.scores)

    def before(self, index: int) -> list[Delta]:
        if index in self._done:
            return []
        self._done.add(index)
        prompt = self._prompts[index // self._choices]
        text = prompt.text
        if text is None:
            own = prompt.tokens[prompt.skip :]
            text = b"".join(map(self._engine.piece, own)).decode("utf-8", "replace")
        scores: tuple[TokenScore, ...] = ()
        if self._scored:
            # Nothing predicts a prompt's first token, so it has no score of its own.
            first = prompt.tokens[0]
            head = TokenScore(first, self._engine.piece(first), None)
            scores = (head, *self._scores.pop(index, ()))[prompt.skip :]
        return [Delta(index, text, scores=scores)]


def to_frames(updates: Sequence[Update], echoes: Echoes | None, start: Start) -> list[Frame]:
    """Updates as frames; texts of one choice that are ready together go as one."""
    frames: list[Frame] = []
    open_delta: dict[int, int] = {}
    for update in updates:
        match update:
            case Waiting():
                frames.append(Queued(update.position, update.eta_s))
            case Started():
                frames.append(start)
            case PromptScores():
                if echoes:
                    echoes.collect(update)
            case Piece():
                if echoes:
                    frames.extend(echoes.before(update.index))
                delta = Delta(
                    update.index, update.text, update.tokens, update.scores, update.reason
                )
                place = open_delta.get(update.index)
                if place is None:
                    open_delta[update.index] = len(frames)
                    frames.append(delta)
                else:
                    earlier = frames[place]
                    assert isinstance(earlier, Delta)
                    frames[place] = _joined(earlier, delta)
            case Vectors():
                pass
    return frames


def _joined(first: Delta, second: Delta) -> Delta:
    return Delta(
        first.index,
        first.text + second.text,
        first.tokens + second.tokens,
        first.scores + second.scores,
        second.reason,
    )


def usage_of(prompts: Sequence[Prompt], ticket: Ticket, choices: int) -> Usage:
    return Usage(
        prompt_tokens=sum(len(prompt.tokens) for prompt in prompts),
        completion_tokens=sum(len(task.job.output) for task in ticket.tasks),
        # Of the copies of a prompt only the first tells what was there before the request.
        cached_tokens=sum(task.job.cached for task in ticket.tasks[::choices]),
    )


def timings_of(ticket: Ticket) -> dict[str, float]:
    started = ticket.started_at or ticket.submitted_at
    finished = ticket.finished_at or started
    prompted = ticket.prompted_at or finished
    return {
        "queued_s": round(started - ticket.submitted_at, 6),
        "prompt_s": round(prompted - started, 6),
        "generate_s": round(finished - prompted, 6),
    }
