"""Every card in the models folder, and what a card may say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import open_llm_server
from open_llm_server import Registry
from open_llm_server.config.cards import Card, Turns, cards, load_card
from open_llm_server.config.folder import models_folder
from open_llm_server.config.models import Source, local_path
from open_llm_server.engine.prompts import TurnsFormat
from open_llm_server.errors import ConfigurationError

ALL = list(cards().values())
WITH_TURNS = [card for card in ALL if card.turns or card.fallback]


@pytest.mark.parametrize("card", ALL, ids=lambda card: card.name)
def test_a_card_is_complete(card: Card) -> None:
    family = Registry.get(card.family)
    assert card.description.endswith(".")
    # what cannot be fetched or is not built in says where to get it
    source = Source.parse(card.source) if card.source else None
    assert source or card.download or family.engine == "fake"
    if source:
        assert card.licence and card.parameters
    if source and source.kind == "hub":
        assert bool(source.file) == (family.weights == "gguf")
    if source and source.kind == "builtin":
        assert local_path(source).exists()
    for name in card.defaults:
        assert name in family.Config.model_fields
    family.Config.model_validate(card.defaults)


@pytest.mark.parametrize("card", WITH_TURNS, ids=lambda card: card.name)
def test_stop_texts_are_no_part_of_an_answer(card: Card) -> None:
    turns = card.turns or card.fallback
    assert turns
    user = turns.user.partition("{content}")[0].strip()
    stops = [stop.strip() for stop in (*card.stop, *turns.stop)]
    # a model without an end token would go on with the user's next turn
    end_tokens = (*card.end_tokens, *cards()[card.family].end_tokens)
    begins = not user or user in (*stops, *end_tokens)
    ends = any(token in turns.assistant for token in end_tokens)
    assert card.family == "fake" or begins or ends
    for stop in stops:
        assert stop not in turns.assistant
        assert stop not in turns.reply


@pytest.mark.parametrize("card", WITH_TURNS, ids=lambda card: card.name)
def test_the_engine_takes_the_turns(card: Card) -> None:
    turns = card.turns or card.fallback
    assert turns
    TurnsFormat(turns)


def test_every_family_has_a_card_and_every_card_a_family() -> None:
    assert set(Registry.own_names()) >= {card.family for card in ALL}
    assert {"llama", "fake", "alpaca", "vicuna", "gpt4all"} <= {card.name for card in ALL}
    assert {"flan-t5", "bloom", "dolly", "stablelm", "gpt-neox"} <= set(Registry.own_names())
    for name in Registry.own_names():
        assert name in cards()


def test_no_card_has_the_name_of_another_module() -> None:
    """`from open_llm_server.NAME import get_runner` is a family's door."""
    package = Path(open_llm_server.__file__).parent
    for card in ALL:
        module = re.sub("[-.]", "_", card.name)
        if (package / f"{module}.py").exists():
            found = importlib.util.find_spec(f"open_llm_server.{module}")
            assert found
            assert card.name in Registry.names()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\nfamily: llama", "description"),
        ("name: y\nfamily: llama\ndescription: d.", "its file is not"),
        ("name: x\nfamily: llama\ndescription: d.\nlicense: z", "license"),
        ("name: x\nfamily: llama\ndescription: d.\nsource: a/b/c", "source"),
        (
            "name: x\nfamily: l\ndescription: d.\n"
            "turns: {system: a, user: '{content}', assistant: '{content}', reply: r}",
            "turns.system",
        ),
        ("[]", "mapping"),
    ],
)
def test_bad_cards(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_card(path)
    assert "x.yaml" in caught.value.message


def test_the_formats_of_well_known_models() -> None:
    vicuna, alpaca = cards()["vicuna"].turns, cards()["alpaca"].turns
    assert isinstance(vicuna, Turns) and isinstance(alpaca, Turns)
    assert vicuna.user.format(content="Hi") + vicuna.reply == "USER: Hi ASSISTANT:"
    assert vicuna.assistant.format(content="Hello.") == "ASSISTANT: Hello.</s>"
    assert (
        alpaca.user.format(content="Add 1 and 2.") + alpaca.reply
        == "### Instruction:\nAdd 1 and 2.\n\n### Response:"
    )


def test_cards_lie_beside_the_package_or_in_it() -> None:
    assert (models_folder() / "llama.yaml").is_file()
