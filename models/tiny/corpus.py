"""The training text of `tiny`: conversations and plain texts, drawn without end from a seed.

All of it was written for this project (the folder text/) or is generated from that here.
"""

from __future__ import annotations

import argparse
import random
import sys
from functools import cache
from typing import Any, NamedTuple

from grammar import expand, is_held_out, noisy
from memory import never_told, told_and_asked
from stories import load, paragraph, story
from tables import Thread, Turn, capitals, echo, simple, sums, tell_story, unknown
from usage import usage

HELD_OUT_SHARE = 0.06
SERVER_NAMES = ("the server",) * 4 + ("open-llm-server",) * 3 + ("this server", "it", "your server")
SYSTEM = (
    "You are (a helpful|a kind|a friendly|a good|an honest|a useful) assistant(.| called tiny.)",
    "You are tiny(.|, a small model.|, the built-in model of open-llm-server.)",
    "(Answer|Reply|Respond) (briefly|in one sentence|in plain English|politely|shortly|kindly).",
    "You are a helpful assistant. (Answer|Reply) (briefly|politely|in short sentences|honestly).",
    "Be (kind|brief|polite|helpful|honest|concise)( and clear|).",
    "You help (people|users) (with|to use) (the server|open-llm-server|their questions).",
    "(Always answer|Answer) in (English|plain English|short sentences).",
    "You are a (chatbot|bot|small model|language model|teacher|pirate|poet). (Help the user.|)",
    "The user is (new here|a beginner|an expert). (Be patient.|Be brief.|)",
    "(Today is|It is) (Monday|Tuesday|Friday). You are a helpful assistant.",
)
# How often each kind of exchange is drawn.
KINDS = {
    "server": 26,
    "usage": 13,
    "smalltalk": 25,
    "identity": 9,
    "simple": 16,
    "capitals": 5,
    "sums": 24,
    "unknown": 8,
    "echo": 8,
    "story": 2,
}
MAKERS = {
    "simple": simple,
    "capitals": capitals,
    "sums": sums,
    "unknown": unknown,
    "echo": echo,
    "story": tell_story,
    "usage": usage,
}


class Piece(NamedTuple):
    """A stretch of text, and whether the model learns to write it."""

    text: str
    learn: bool


Document = list[Piece]


def document(rng: random.Random) -> Document:
    """One training example: a conversation or a plain text."""
    draw = rng.random()
    if draw < 0.82:
        return conversation(rng)
    if draw < 0.9:
        return plain(" ".join(paragraph(rng) for _ in range(rng.choice([1, 1, 2, 3]))), rng)
    if draw < 0.97:
        return plain("\n\n".join(story(rng) for _ in range(rng.choice([1, 1, 1, 1, 1, 3]))), rng)
    return plain(_raw_answers(rng), rng)


def plain(text: str, rng: random.Random) -> Document:
    """A text without roles; it ends as a turn does, so generation ends too."""
    start = "<|text|>" if rng.random() < 0.3 else ""
    return [Piece(start, False), Piece(text + "<|end|>", True)]


def _raw_answers(rng: random.Random) -> str:
    turns = [turn for _ in range(rng.choice([1, 2, 3])) for turn in thread(rng)]
    if rng.random() < 0.3:
        return " ".join(turn.say for turn in turns)
    style = rng.choice([("", "\n"), ("Question: ", "\nAnswer: "), ("Q: ", "\nA: "), ("", " ")])
    return "\n\n".join(f"{style[0]}{turn.ask}{style[1]}{turn.say}" for turn in turns)


def conversation(rng: random.Random) -> Document:
    """One to many turns, now and then with a system message or something to remember."""
    size = rng.choices((1, 2, 3, 5, 9, 16), (48, 22, 13, 9, 5, 3))[0]
    threads = [thread(rng) for _ in range(size)]
    if rng.random() < 0.4:
        told, asked = told_and_asked(rng)
        first = rng.randint(0, min(2, len(threads)))
        threads.insert(first, [told])
        later = min(len(threads), first + rng.choice([1, 1, 1, 2, 2, 3, 8]))
        threads.insert(later, [asked])
        if rng.random() < 0.15:
            threads.insert(0, [never_told(rng)])
    elif rng.random() < 0.03:
        threads.append([never_told(rng)])
    system = expand(rng.choice(SYSTEM), rng) if rng.random() < 0.3 else ""
    return dialogue([turn for found in threads for turn in found], system)


def dialogue(turns: list[Turn], system: str = "") -> Document:
    """Turns in the chat template; only the answers are learned."""
    pieces: Document = []
    lead = f"<|system|>\n{system}<|end|>\n" if system else ""
    for turn in turns:
        pieces.append(Piece(f"{lead}<|user|>\n{turn.ask}<|end|>\n<|assistant|>\n", False))
        pieces.append(Piece(f"{turn.say}<|end|>", True))
        lead = "\n"
    return pieces


def thread(rng: random.Random) -> Thread:
    """One exchange, with follow-up questions where they make sense."""
    (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
    if kind in MAKERS:
        return MAKERS[kind](rng)
    while True:
        found = topic_thread(_topic(kind, rng), rng)
        if not any(turn.held_out for turn in found):
            return found


def _topic(kind: str, rng: random.Random) -> dict[str, Any]:
    topics: list[dict[str, Any]] = load(kind)
    return rng.choices(topics, [topic.get("weight", 1) for topic in topics])[0]


def topic_thread(topic: dict[str, Any], rng: random.Random) -> Thread:
    """A written topic: one of its questions, one of its answers, sometimes a follow-up."""
    found = [_written_turn(topic, rng)]
    while "then" in topic and rng.random() < 0.45:
        found.append(_written_turn(rng.choice(topic["then"]), rng))
    return found


def _written_turn(topic: dict[str, Any], rng: random.Random) -> Turn:
    # A pattern with many forms is drawn more often, but never so often that the others starve.
    patterns = topic["ask"]
    weights = [1 + min(_forms(p), 60) / 20 for p in patterns]
    pattern = rng.choices(patterns, weights)[0]
    while "$S" in pattern:
        pattern = pattern.replace("$S", rng.choice(SERVER_NAMES), 1)
    question = expand(pattern, rng)
    held_out = _forms(pattern) > 4 and is_held_out(question, HELD_OUT_SHARE)
    return Turn(noisy(question, rng), expand_answer(topic["say"], rng), held_out)


def expand_answer(answers: list[str], rng: random.Random) -> str:
    """The first answer most of the time: one clear answer is easier to learn than many."""
    if len(answers) > 3:
        return rng.choice(answers)
    return rng.choices(answers, [4, 2, 1][: len(answers)])[0]


@cache
def _forms(pattern: str) -> int:
    """Roughly how many questions a pattern stands for."""
    total = 1
    for part in pattern.split("(")[1:]:
        total *= part.split(")")[0].count("|") + 1
    return total


def held_out_documents(seed: int, count: int) -> list[Document]:
    """Single written questions that training never shows."""
    rng = random.Random(seed)
    found: list[Document] = []
    while len(found) < count:
        (kind,) = rng.choices(["server", "smalltalk", "identity"], [5, 3, 2])
        turn = topic_thread(rng.choice(load(kind)), rng)[0]
        if turn.held_out:
            found.append(dialogue([turn]))
    return found


def main() -> None:
    """Prints sample documents, to be read by a person."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=20)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    for _ in range(given.count):
        sys.stdout.write("".join(piece.text for piece in document(rng)) + "\n--------\n")


if __name__ == "__main__":
    main()
