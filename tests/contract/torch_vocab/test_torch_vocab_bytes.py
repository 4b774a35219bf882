"""Tokens spelled as bytes give the text back."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from checkpoints import EVERY, SPARE_TOKENS
from hypothesis import assume, given, settings
from tokenizers import normalizers

from open_llm_server.engine.torch_vocab import Vocabulary

from .files import ANY_TEXT, control_ids, spelled

pytestmark = pytest.mark.weights

BYTE_LEVEL = ["bloom", "gpt-neox", "dolly", "stablelm", "stablelm-tuned"]


@pytest.mark.parametrize("name", BYTE_LEVEL)
@pytest.mark.parametrize("control", [True, False])
@settings(max_examples=50)
@given(text=ANY_TEXT)
def test_byte_level_texts_come_back(
    name: str, control: bool, text: str, vocabularies: dict[str, Vocabulary]
) -> None:
    vocabulary = vocabularies[name]
    assume(not control or not any(word in text for word in vocabulary.control_texts))
    tokens = vocabulary.tokenize(text, begin=True, control=control)
    if name != "bloom":  # GPT-NeoX composes characters before it looks at them
        text = normalizers.NFC().normalize_str(text)
    assert spelled(vocabulary, tokens) == text.encode()


@settings(max_examples=50)
@given(text=ANY_TEXT)
def test_byte_fallback_texts_come_back_after_a_space(
    text: str, vocabularies: dict[str, Vocabulary]
) -> None:
    vocabulary = vocabularies["llama"]
    text = text.replace("▁", "_")  # stands for a space in such vocabularies
    tokens = vocabulary.tokenize(text, begin=True, control=False)
    assert spelled(vocabulary, tokens).decode().removeprefix(" ") == text.removeprefix(" ")


def test_known_words_of_t5_come_back(vocabularies: dict[str, Vocabulary]) -> None:
    vocabulary = vocabularies["flan-t5"]
    text = "The quick brown fox says hello 😀 to Paris."
    tokens = vocabulary.tokenize(text, begin=False, control=True)
    assert spelled(vocabulary, tokens).decode() == f" {text}"


def test_words_of_wordpiece(vocabularies: dict[str, Vocabulary]) -> None:
    vocabulary = vocabularies["minilm"]
    tokens = vocabulary.tokenize("The lazy dogs", begin=True, control=False)
    assert spelled(vocabulary, tokens) == b" the lazy dogs"


@pytest.mark.parametrize("name", [*BYTE_LEVEL, "llama", "flan-t5"])
def test_pieces_equal_the_librarys_text(
    name: str, folders: dict[str, Path], vocabularies: dict[str, Vocabulary]
) -> None:
    vocabulary = vocabularies[name]
    library = transformers.AutoTokenizer.from_pretrained(folders[name])
    for token in range(vocabulary.size):
        # A second token, so that decoders that strip a text's first space do not.
        follows = vocabulary.tokenize("a", begin=False, control=False)[-1]
        text = library.decode([follows, token], skip_special_tokens=True)
        known = spelled(vocabulary, [follows, token]).decode("utf-8", "replace")
        assert isinstance(text, str)
        assert known.strip() == text.strip()


@pytest.mark.parametrize("name", EVERY)
def test_control_tokens_add_nothing(
    name: str, folders: dict[str, Path], vocabularies: dict[str, Vocabulary]
) -> None:
    assert spelled(vocabularies[name], control_ids(folders[name])) == b""


def test_places_without_a_token_add_nothing(vocabularies: dict[str, Vocabulary]) -> None:
    vocabulary = vocabularies["gpt-neox"]
    spare = [*range(vocabulary.size - SPARE_TOKENS, vocabulary.size + 2), -1]
    assert spelled(vocabulary, spare) == b""
    assert vocabulary.piece(spare[0] - 1)
