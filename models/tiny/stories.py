"""Plain texts: short stories and first-person paragraphs, drawn from the grammar in text/."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from grammar import expand

TEXT = Path(__file__).resolve().parent / "text"


@cache
def load(name: str) -> Any:
    """One YAML file of the folder text/."""
    return yaml.safe_load((TEXT / f"{name}.yaml").read_text(encoding="utf-8"))


def story(rng: random.Random, about: str = "") -> str:
    """A short story; `about` names the animal that it is to be about."""
    words = load("stories")
    plot = rng.choice(words["plots"])
    fields = _hero(rng, words, about)
    fields |= {
        "place": rng.choice(words["places"]),
        "thing": rng.choice(words["things"]),
        "treat": rng.choice(words["treats"]),
        "treat2": rng.choice(words["treats"]),
        "trait": rng.choice(words["traits"]),
        "trait2": rng.choice(words["traits"]),
        "weather": rng.choice(words["weathers"]),
        "animal": rng.choice(words["animals"]),
        "job": rng.choice(words["jobs"]),
    }
    sentences = (expand(pattern, rng).format(**fields) for pattern in plot)
    return _articles(" ".join(s[:1].upper() + s[1:] for s in sentences if s))


def _hero(rng: random.Random, words: dict[str, Any], about: str) -> dict[str, str]:
    girl = rng.random() < 0.5
    name = rng.choice(words["girls" if girl else "boys"])
    child = "girl" if girl else "boy"
    kind = about or rng.choice([child, child, rng.choice(words["animals"])])
    return {
        "name": name,
        "kind": kind,
        "kind2": child,
        "called": rng.choice(["called", "named"]),
        "he": "she" if girl else "he",
        "He": "She" if girl else "He",
        "his": "her" if girl else "his",
    }


def paragraph(rng: random.Random) -> str:
    """A few plain sentences, many of them of a person about himself or herself."""
    words, tables = load("stories"), load("tables")
    fields = {
        "name": rng.choice(tables["names"]),
        "name2": rng.choice(tables["names"]),
        "age": rng.choice(words["ages"]),
        "job": rng.choice(tables["jobs"]),
        "city": rng.choice(tables["cities"]),
        "hobby": rng.choice(tables["hobbies"]),
        "hobby2": rng.choice(tables["hobbies"]),
        "pet": rng.choice(tables["pets"]),
        "petname": rng.choice(tables["pet_names"]),
        "colour": rng.choice(tables["colour_names"]),
        "place": rng.choice(words["places"]),
        "thing": rng.choice(words["things"]),
        "treat": rng.choice(words["treats"]),
        "weather": rng.choice(words["weathers"]),
        "animal": rng.choice(words["animals"]),
        "animal2": rng.choice(words["animals"]),
    }
    weights = [4 if p.startswith("My name is") else 1 for p in words["intro"]]
    (pattern,) = rng.choices(words["intro"], weights)
    return _articles(expand(pattern, rng).format(**fields))


def _articles(text: str) -> str:
    for vowel in "aeio":
        text = text.replace(f" a {vowel}", f" an {vowel}").replace(f"A {vowel}", f"An {vowel}")
    return text
