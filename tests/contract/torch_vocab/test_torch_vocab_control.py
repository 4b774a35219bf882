"""Control tokens come from templates alone, and ends are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints import EVERY, make_dolly, make_gpt_neox, make_llama
from hypothesis import given, settings
from hypothesis import strategies as st

from open_llm_server.engine.torch_vocab import Vocabulary

from .files import ANY_TEXT, control_ids, edit, open_folder, spelled

pytestmark = pytest.mark.weights


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=40)
@given(data=st.data())
def test_text_never_becomes_control_tokens(
    name: str,
    data: st.DataObject,
    folders: dict[str, Path],
    vocabularies: dict[str, Vocabulary],
) -> None:
    vocabulary = vocabularies[name]
    spellings = st.sampled_from(sorted(vocabulary.control_texts))
    text = "".join(data.draw(st.lists(st.one_of(spellings, ANY_TEXT), max_size=6)))
    tokens = vocabulary.tokenize(text, begin=False, control=False)
    assert not control_ids(folders[name]) & set(tokens)
    assert all(0 <= token < vocabulary.size for token in tokens)


@pytest.mark.parametrize("name", EVERY)
def test_control_texts_become_their_tokens_when_asked(
    name: str, folders: dict[str, Path], vocabularies: dict[str, Vocabulary]
) -> None:
    vocabulary = vocabularies[name]
    for text in vocabulary.control_texts:
        (token,) = vocabulary.tokenize(text, begin=False, control=True)
        assert token in control_ids(folders[name]) or text in ("<unk>", "[UNK]")


def test_marks_of_turns_are_control_whatever_the_file_says(tmp_path: Path) -> None:
    folder = make_dolly(tmp_path)

    def demote(content: dict[str, Any]) -> None:
        for entry in content["added_tokens"]:
            if entry["content"] == "### End":
                entry["content"], entry["special"] = "<|user|>", False

    edit(folder, "tokenizer.json", demote)
    edit(folder, "tokenizer_config.json", lambda content: content.pop("additional_special_tokens"))
    vocabulary = open_folder(folder)
    assert "<|user|>" in vocabulary.control_texts
    (mark,) = vocabulary.tokenize("<|user|>", begin=False, control=True)
    tokens = vocabulary.tokenize("a <|user|>", begin=False, control=False)
    assert mark not in tokens
    assert spelled(vocabulary, tokens) == b"a <|user|>"
    assert vocabulary.piece(mark) == b"<|user|>"


def test_merges_do_not_make_control_tokens_either(tmp_path: Path) -> None:
    folder = make_gpt_neox(tmp_path)

    words: list[str] = []

    def promote(content: dict[str, Any]) -> None:
        merged = ("".join(merge) for merge in content["model"]["merges"])
        words.append(next(word for word in merged if word.isascii()))
        entry = {"id": content["model"]["vocab"][words[0]], "content": words[0]}
        content["added_tokens"].append({**content["added_tokens"][0], **entry})

    edit(folder, "tokenizer.json", promote)
    vocabulary = open_folder(folder)
    (word,) = words
    (token,) = vocabulary.tokenize(word, begin=False, control=True)
    found = vocabulary.tokenize(f"{word} {word}{word}", begin=False, control=False)
    assert token not in found
    assert spelled(vocabulary, found).decode() == f"{word} {word}{word}"


def test_every_end_counts(tmp_path: Path) -> None:
    folder = make_dolly(tmp_path)
    edit(folder, "generation_config.json", lambda content: content.update(eos_token_id=[0, 7]))
    edit(folder, "config.json", lambda content: content.update(eos_token_id=5, pad_token_id=1))
    vocabulary = open_folder(folder, "### End", "<|USER|>", "no token at all", " the")
    (key,) = vocabulary.tokenize("### End", begin=False, control=True)
    (word,) = vocabulary.tokenize(" the", begin=False, control=True)
    assert vocabulary.end_tokens == {0, 5, 7, key, word}


def test_an_end_text_is_that_text_alone(tmp_path: Path) -> None:
    """Metaspace vocabularies spell a word with the space before it."""
    vocabulary = open_folder(make_llama(tmp_path), "the")
    (token,) = vocabulary.tokenize("the", begin=False, control=True)
    assert vocabulary.piece(token) == b" the"
    assert token not in vocabulary.end_tokens
