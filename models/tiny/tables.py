"""Questions and answers from tables: capitals, sums, opposites, and what to say to the rest."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from grammar import expand, noisy
from stories import load, paragraph, story


class Turn(NamedTuple):
    """A question and its answer; held out turns are judged, never learned."""

    ask: str
    say: str
    held_out: bool = False


Thread = list[Turn]

CAPITAL = (
    "What is the capital( city|) of {}?",
    "(Which|What) city is the capital of {}?",
    "(Tell me|Name) the capital of {}",
    "Do you know the capital of {}?",
    "{} capital?",
    "capital of {}",
    "(Can you tell me|I want to know) the capital of {}",
    "What is {}'s capital?",
)
CAPITAL_NEXT = ("And (the capital |)of {}?", "And {}?", "What about {}?", "And what about {}?")
COLOUR = (
    "(What|Which) color is {}?",
    "What is the color of {}?",
    "(What|Which) colour (is|has) {}?",
    "(What|Which) color (does|has) {}( have|)?",
    "(Tell me|Name) the color of {}",
)
SOUND = (
    "What (sound|noise) does {} make?",
    "What does {} say?",
    "(How does|What does) {} sound( like|)?",
)
OPPOSITE = (
    "What is the opposite of {}?",
    "(Tell me|Name|Give me) the opposite of {}",
    "opposite of {}",
    "Which word is the opposite of {}?",
    "What is the contrary of {}?",
)
DEFINITION = (
    "What is {}?",
    "what is {}",
    "(Explain|Describe|Define) {}",
    "What does {} mean?",
    "(Tell me|Can you tell me|Do you know|Explain|I want to know) what {} is",
    "Tell me about {}",
)
NUMBER = (
    "How many {}?",
    "How many {}?",
    "Do you know how many {}?",
    "(Tell me|Say) how many {}",
)
STORY = (
    "(Tell|Can you tell|Could you tell|Please tell) me a (short |little |nice |)story( please|)",
    "(Write|Make up|Create|Give me|I want|I would like to hear) a (short |little |nice |)story",
    "(Do you know|Have you got) (a|any) (story|stories|good story)?",
    "story time",
    "a story please",
    "Read me a story",
    "(Tell|Read) me a (bedtime story|fairy tale|tale)",
)
STORY_ABOUT = (
    "(Tell|Can you tell) me a (short |little |)story about a {}",
    "Write a (short |)story about a {}",
    "(A|I want a|Give me a) story about a {}",
)
ECHO = (
    "(Say|Repeat|Please say|Please repeat|Write): {}",
    "(Repeat after me|Say after me|Echo): {}",
    "(Say|Repeat|Write) the (word|words) {}",
    "Can you (say|repeat) {}?",
)


ONSETS = (*"bdfghjklmnprstvwz", "br", "kl", "st", "tr")
# The tables that `simple` draws from, and how often.
SIMPLE = {
    "colours": 1,
    "sounds": 1,
    "opposites": 1,
    "definitions": 3,
    "numbers": 2,
    "plain": 3,
    "days": 1,
}


def capitals(rng: random.Random) -> Thread:
    """One country, or a chain of them with short follow-up questions."""
    table = load("tables")
    thread: Thread = []
    for place in range(rng.choice([1, 1, 1, 2, 3])):
        asked = CAPITAL_NEXT if place and rng.random() < 0.8 else CAPITAL
        if rng.random() < 0.85:
            country = rng.choice(list(table["capitals"]))
            city = table["capitals"][country]
            answer = f"The capital of {country} is {city}."
        else:
            country = rng.choice([*table["unknown_countries"], made_up_word(rng)])
            answer = f"I am a very small model and do not know the capital of {country}."
        thread.append(Turn(_ask(asked, country, rng), answer))
    return thread


def sums(rng: random.Random) -> Thread:
    """Small additions, subtractions and multiplications."""
    kind = rng.choice("+++--*")
    first, second = rng.randint(0, 12), rng.randint(0, 12)
    if kind == "+" and rng.random() < 0.1:
        first, second = rng.randint(0, 20), rng.randint(0, 20)
    if kind == "-" and second > first:
        first, second = second, first
    if kind == "*":
        first, second = rng.randint(0, 10), rng.randint(0, 10)
    result = {"+": first + second, "-": first - second, "*": first * second}[kind]
    word = {"+": "plus", "-": "minus", "*": "times"}[kind]
    sign = rng.choice([f" {word} ", f" {word} ", f" {kind} ", kind])
    if kind == "*" and sign.strip() == "*" and rng.random() < 0.3:
        sign = " x "
    term = f"{first}{sign}{second}"
    asked = rng.choice(
        (
            "What is {}?",
            "What is {}?",
            "{}",
            "{} =",
            "{} = ?",
            "How much is {}?",
            "Calculate {}",
            "Compute {}",
            "What does {} make?",
            "Can you compute {}?",
            "{}?",
            "what's {}",
        )
    )
    return [Turn(noisy(asked.format(term), rng), f"{first} {word} {second} is {result}.")]


def simple(rng: random.Random) -> Thread:
    """A colour, a sound, an opposite, a definition, a number or a plain fact."""
    table = load("tables")
    (kind,) = rng.choices(list(SIMPLE), list(SIMPLE.values()))
    if kind == "days":
        return [_neighbour(rng)]
    key = rng.choice(list(table[kind]))
    value = table[kind][key]
    title = key[:1].upper() + key[1:]
    if kind == "colours":
        return [Turn(_ask(COLOUR, key, rng), f"{title} is {value}.")]
    if kind == "sounds":
        return [Turn(_ask(SOUND, key, rng), f"{title} says {value}.")]
    if kind == "opposites":
        if rng.random() < 0.4:
            key, value = value, key
        return [Turn(_ask(OPPOSITE, key, rng), f"The opposite of {key} is {value}.")]
    if kind == "definitions":
        return [Turn(_ask(DEFINITION, key, rng), value)]
    if kind == "numbers":
        return [Turn(_ask(NUMBER, key, rng), value)]
    asked = key if rng.random() < 0.8 else f"{rng.choice(['Tell me:', 'Do you know:'])} {key}"
    return [Turn(noisy(asked + ("" if asked.startswith(("Name", "Count")) else "?"), rng), value)]


def _neighbour(rng: random.Random) -> Turn:
    table = load("tables")
    row = table[rng.choice(["days", "months"])]
    spot = rng.randrange(len(row))
    after = rng.random() < 0.6
    other = row[(spot + (1 if after else -1)) % len(row)]
    word = "after" if after else "before"
    asked = rng.choice(
        ["What comes {} {}?", "Which {kind} comes {} {}?", "What {kind} is {} {}?"]
    ).format(word, row[spot], kind="day" if len(row) == 7 else "month")
    return Turn(noisy(asked, rng), f"{other} comes {word} {row[spot]}.")


def unknown(rng: random.Random) -> Thread:
    """A question that so small a model cannot answer, and the honest answer."""
    table = load("unknown")
    pattern = expand(rng.choice(table["unknowable"]), rng)
    fillers: dict[str, Callable[[], str]] = {
        "$X": lambda: f"{rng.choice(table['first_names'])} {rng.choice(table['last_names'])}",
        "$P": lambda: rng.choice([*table["places"], made_up_word(rng)]),
        "$L": lambda: paragraph(rng),
        "$T": lambda: rng.choice(table["things"]),
        "$Y": lambda: str(rng.randint(1200, 2040)),
        "$N": lambda: str(rng.choice([rng.randint(101, 999), rng.randint(1000, 99999)])),
    }
    for mark, fill in fillers.items():
        while mark in pattern:
            pattern = pattern.replace(mark, fill(), 1)
    return [Turn(noisy(pattern, rng), rng.choices(table["answers"], [4, 1])[0])]


def tell_story(rng: random.Random) -> Thread:
    """A story on request, now and then about a given animal."""
    if rng.random() < 0.35:
        animal = rng.choice(load("stories")["animals"])
        return [Turn(_ask(STORY_ABOUT, animal, rng), story(rng, animal))]
    return [Turn(noisy(expand(rng.choice(STORY), rng), rng), story(rng))]


def echo(rng: random.Random) -> Thread:
    """Words to repeat: the model learns to copy from its context."""
    table = load("tables")
    pool = [*table["names"], *table["foods"], *table["cities"], *table["colour_names"]]
    words = " ".join(
        rng.choice([rng.choice(pool), made_up_word(rng)]) for _ in range(rng.choice([1, 1, 2, 3]))
    )
    return [Turn(expand(rng.choice(ECHO), rng).format(words), words)]


def made_up_word(rng: random.Random) -> str:
    """A name that no table holds, so that copying is the only way to know it."""
    word = "".join(
        rng.choice(ONSETS) + rng.choice("aeiou") for _ in range(rng.choice([1, 2, 2, 3]))
    )
    return (word + rng.choice(("", *"nrlsktx"))).capitalize()


def _ask(patterns: tuple[str, ...], value: str, rng: random.Random) -> str:
    text = noisy(expand(rng.choice(patterns).replace("{}", "\0"), rng), rng)
    return text.replace("\0", value if rng.random() < 0.8 else value.lower())
