"""Pattern language of the corpus: `(a|b|)` alternatives, and the noise of real typing.

Knows nothing about topics, models or files.
"""

from __future__ import annotations

import hashlib
import random
import re

OPENERS = (
    "Hi, ",
    "Hello, ",
    "Hey, ",
    "Hi! ",
    "Hello! ",
    "Hey! ",
    "Hi there. ",
    "Good morning. ",
    "Please, ",
    "Quick question: ",
    "I have a question: ",
    "One more question: ",
    "OK, ",
    "And ",
    "So ",
    "Tell me, ",
    "Can you tell me, ",
    "Could you tell me, ",
    "Please tell me, ",
    "Sorry, ",
    "Excuse me, ",
    "I am new here. ",
    "Now tell me, ",
    "Great. ",
    "Thanks. ",
    "Well, ",
    "Question: ",
)
CLOSERS = (" please", ", please", " Thanks!", " Thank you.", ", thank you", " thanks", " thx")


def expand(pattern: str, rng: random.Random) -> str:
    """Choose one alternative in each pair of round brackets, inner ones included."""
    text, _ = _expand_from(pattern, 0, rng, nested=False)
    return re.sub(r" {2,}", " ", text).strip()


def _expand_from(pattern: str, at: int, rng: random.Random, *, nested: bool) -> tuple[str, int]:
    choices = [""]
    while at < len(pattern):
        char = pattern[at]
        if char == "(":
            inner, at = _expand_from(pattern, at + 1, rng, nested=True)
            choices[-1] += inner
            continue
        if nested and char == ")":
            return rng.choice(choices), at + 1
        if nested and char == "|":
            choices.append("")
        else:
            choices[-1] += char
        at += 1
    return choices[0], at


def normal_form(text: str) -> str:
    """The letters and digits only: two questions with the same form are the same question."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def is_held_out(text: str, share: float) -> bool:
    """True for a fixed share of all questions, whatever the run or the order.

    Short questions are never held out: there is only one way to say `How are you?`.
    """
    form = normal_form(text)
    if form.count(" ") < 4:
        return False
    digest = hashlib.sha256(form.encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def noisy(question: str, rng: random.Random) -> str:
    """The question as different people would type it."""
    text = question
    lead = rng.random()
    if lead < 0.14:
        opener = rng.choice(OPENERS)
        text = opener + (text if opener[-2] in ".!:" else _lower_first(text))
    text = _ending(text, rng)
    if rng.random() < 0.06:
        text = text.rstrip("?.! ") + rng.choice(CLOSERS)
    if rng.random() < 0.07:
        text = _typo(text, rng)
    case = rng.random()
    if case < 0.27:
        return text.lower()
    if case < 0.29:
        return text.upper()
    return text


def _lower_first(text: str) -> str:
    if text[:2] in ("I ", "I'") or text[:1] == "/":
        return text
    return text[:1].lower() + text[1:]


def _ending(text: str, rng: random.Random) -> str:
    draw = rng.random()
    if text.endswith("?"):
        if draw < 0.3:
            return text[:-1]
        if draw < 0.34:
            return text[:-1] + rng.choice(("??", " ?", "?!", "."))
        return text
    if text[-1:].isalnum():
        if draw < 0.35:
            return text + "."
        if draw < 0.45:
            return text + "!"
    return text


def _typo(text: str, rng: random.Random) -> str:
    spots = [i for i in range(1, len(text) - 1) if text[i].isalpha() and text[i + 1].isalpha()]
    if not spots:
        return text
    i = rng.choice(spots)
    kind = rng.randrange(3)
    if kind == 0:
        return text[:i] + text[i + 1 :]
    if kind == 1:
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    return text[:i] + text[i] + text[i:]
