"""What a user tells about himself, asked back later: the model learns to look into its context."""

from __future__ import annotations

import random
from typing import NamedTuple

from grammar import expand, noisy
from stories import load
from tables import Turn, made_up_word


class Fact(NamedTuple):
    """How one kind of fact is told, acknowledged, asked back and answered."""

    told: tuple[str, ...]
    noted: tuple[str, ...]
    asked: tuple[str, ...]
    answer: str
    never_told: str
    values: str


FACTS = {
    "name": Fact(
        (
            "(Hello, |Hi, |Hey, |Hi |)(my name is|My name is|I am|I'm|my name's|this is) {}",
            "(Hello|Hi|Good morning)(,|!|.) (my name is|I am|I'm) {}",
            "My name is {}",
            "(You can call|Call|Please call) me {}",
            "I am called {}",
            "My name is {}. What is yours?",
            "(Hello|Hi), (I am|I'm|my name is) {}(.|,) (How are you?|Who are you?)",
        ),
        ("Nice to meet you, {}!", "Hello {}, nice to meet you!"),
        (
            "What is my name?",
            "(Do you know|Do you remember|Can you tell me|Tell me|Say) my name?",
            "(Do you know|Do you remember) (who I am|what my name is|what I am called)?",
            "Who am I?",
            "What am I called?",
            "And what is my name?",
            "What was my name( again|)?",
            "what's my name",
            "(What is|whats|What's) my name( again|)?",
            "How do you call me?",
        ),
        "Your name is {}.",
        "You have not told me your name yet.",
        "names",
    ),
    "colour": Fact(
        (
            "My favo(u|)rite colo(u|)r is {}",
            "I like the colo(u|)r {}( best| most|)",
            "(The colo(u|)r that I like best is|I love the colo(u|)r) {}",
        ),
        ("{} is a beautiful color!", "I like {} too."),
        (
            "What is my favo(u|)rite colo(u|)r?",
            "Which colo(u|)r do I like( best| most|)?",
            "(Do you know|Do you remember|Tell me) my favo(u|)rite colo(u|)r?",
        ),
        "Your favorite color is {}.",
        "You have not told me your favorite color yet.",
        "colour_names",
    ),
    "city": Fact(
        ("I live in {}", "(My home is|My home town is|I am at home) in {}", "I (come|am) from {}"),
        ("{} is a nice place!", "I have never been in {}, but it sounds nice."),
        (
            "Where do I live?",
            "(Which|What) city (do I live in|am I from)?",
            "Where am I from?",
            "(Do you know|Do you remember|Tell me) where I (live|come from)?",
        ),
        "You live in {}.",
        "You have not told me where you live.",
        "cities",
    ),
    "job": Fact(
        ("I am a {}", "I work as a {}", "My job is {}", "I'm a {}"),
        ("That is a good job!", "It must be interesting to be a {}."),
        (
            "What is my (job|profession|work)?",
            "What do I (do|work)( for a living| as|)?",
            "(Do you know|Do you remember|Tell me) my job?",
        ),
        "You are a {}.",
        "You have not told me what your job is.",
        "jobs",
    ),
    "food": Fact(
        ("My favo(u|)rite food is {}", "I (like|love) (to eat |){}", "I like {} (best|most)"),
        ("{} sounds good!", "That sounds good. I cannot eat, but many people like {}."),
        (
            "What is my favo(u|)rite food?",
            "What do I like( to eat|)?",
            "(Do you know|Do you remember|Tell me) what I like to eat?",
        ),
        "You like {}.",
        "You have not told me what you like to eat.",
        "foods",
    ),
    "pet": Fact(
        (
            "My (dog|cat|pet|horse) is called {}",
            "I have a (dog|cat|horse|rabbit) called {}",
            "The name of my (dog|cat|pet) is {}",
            "I have a (dog|cat). (Her|His|Its) name is {}",
        ),
        ("{} is a lovely name!", "That is a good name for a pet."),
        (
            "What is (my (dog|cat|pet) called|the name of my (dog|cat|pet))?",
            "(What is|Do you remember|Do you know) the name of my (pet|dog|cat)?",
            "What is my (dog|cat|pet)'s name?",
        ),
        "Your pet is called {}.",
        "You have not told me the name of your pet.",
        "pet_names",
    ),
    "age": Fact(
        ("I am {} years old", "I'm {}( years old|)", "My age is {}", "I turned {} this year"),
        ("Thank you for telling me! I have no age.", "{} is a good age!"),
        ("How old am I?", "What is my age?", "(Do you know|Do you remember|Tell me) how old I am?"),
        "You are {} years old.",
        "You have not told me how old you are.",
        "ages",
    ),
}


def told_and_asked(rng: random.Random) -> tuple[Turn, Turn]:
    """Two turns that belong together; anything may come between them."""
    kind = rng.choice(["name"] * 6 + ["city"] * 2 + list(FACTS))
    fact, value = FACTS[kind], _value(kind, rng)
    told = noisy(expand(rng.choice(fact.told), rng).replace("{}", value), rng)
    if value not in told:
        # Typing noise hit the value itself: what is on the page is what can be asked back.
        told = f"My name is {value}" if kind == "name" else fact.told[0].split("(")[0] + value
        told = told if kind in ("name", "city", "job", "age") else f"My {kind} is {value}"
    noted = rng.choice(fact.noted).replace("{}", value)
    asked = noisy(expand(rng.choice(fact.asked), rng), rng)
    return Turn(told, noted[:1].upper() + noted[1:]), Turn(asked, fact.answer.format(value))


def never_told(rng: random.Random) -> Turn:
    """The question without the fact: the honest answer is that nobody told it."""
    kind = rng.choice(["name"] * 5 + list(FACTS))
    fact = FACTS[kind]
    return Turn(noisy(expand(rng.choice(fact.asked), rng), rng), fact.never_told)


def _value(kind: str, rng: random.Random) -> str:
    if kind == "age":
        return str(rng.randint(6, 90))
    if kind in ("name", "city", "pet") and rng.random() < 0.55:
        return made_up_word(rng)
    return str(rng.choice(load("tables")[FACTS[kind].values]))
