"""Hard texts, and tokeniser files that are old, odd or broken."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from checkpoints import EVERY, make_bert, make_dolly, make_gpt_neox, make_t5

from open_llm_server.engine.torch_vocab import Vocabulary
from open_llm_server.errors import WeightsError

from .files import control_ids, edit, open_folder, spelled

pytestmark = pytest.mark.weights


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("part", ["a", " ", "漢", "😀", "</s><|endoftext|>", "the lazy dog. "])
def test_long_texts(name: str, part: str, vocabularies: dict[str, Vocabulary]) -> None:
    text = part * (100_000 // len(part))
    for control in (True, False):
        vocabularies[name].tokenize(text, begin=True, control=control)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("control", [True, False])
def test_lone_surrogates_are_refused(
    name: str, control: bool, vocabularies: dict[str, Vocabulary]
) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        vocabularies[name].tokenize("a\ud800", begin=True, control=control)


def test_threads_do_not_disturb_each_other(vocabularies: dict[str, Vocabulary]) -> None:
    vocabulary = vocabularies["dolly"]
    text = "### End of the lazy dog " * 200
    wanted = {flag: vocabulary.tokenize(text, begin=True, control=flag) for flag in (True, False)}
    assert wanted[True] != wanted[False]
    wrong: list[bool] = []

    def ask(flag: bool) -> None:
        for _ in range(20):
            if vocabulary.tokenize(text, begin=True, control=flag) != wanted[flag]:
                wrong.append(flag)

    threads = [threading.Thread(target=ask, args=(place % 2 == 0,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_normaliser_of_the_file_counts(tmp_path: Path) -> None:
    folder = make_t5(tmp_path)
    lower = {"type": "Lowercase"}
    edit(folder, "tokenizer.json", lambda content: content.update(normalizer=lower))
    vocabulary = open_folder(folder)
    same = [vocabulary.tokenize(text, begin=True, control=True) for text in ("THE DOG", "the dog")]
    assert same[0] == same[1]


def test_older_files_do_as_well(tmp_path: Path) -> None:
    folder = make_bert(tmp_path)
    wanted = open_folder(folder).tokenize("Lazy [SEP] dogs!", begin=True, control=True)
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)))
    (folder / "tokenizer.json").unlink()
    vocabulary = open_folder(folder)
    assert vocabulary.tokenize("Lazy [SEP] dogs!", begin=True, control=True) == wanted
    assert vocabulary.suffix == (3,)


def test_the_size_is_the_models(vocabularies: dict[str, Vocabulary], tmp_path: Path) -> None:
    folder = make_gpt_neox(tmp_path)
    edit(folder, "config.json", lambda content: content.update(vocab_size=9999))
    assert open_folder(folder).size == 9999
    edit(folder, "config.json", lambda content: content.update(vocab_size=300))
    with pytest.raises(WeightsError, match="from the same checkpoint"):
        open_folder(folder)
    edit(folder, "config.json", lambda content: content.pop("vocab_size"))
    with pytest.raises(WeightsError, match="vocab_size"):
        open_folder(folder)


def test_added_tokens_without_a_place_in_the_model_are_text(tmp_path: Path) -> None:
    folder = make_dolly(tmp_path)
    size = max(control_ids(folder))  # The last of its keys has no place.
    edit(folder, "config.json", lambda content: content.update(vocab_size=size))
    vocabulary = open_folder(folder)
    tokens = vocabulary.tokenize("### Response: x", begin=False, control=True)
    assert max(tokens) < size
    assert spelled(vocabulary, tokens) == b"### Response: x"


def test_numbers_that_contradict(tmp_path: Path) -> None:
    folder = make_dolly(tmp_path)

    def shift(content: dict[str, Any]) -> None:
        content["added_tokens"][-1]["id"] += 2

    edit(folder, "tokenizer.json", shift)
    with pytest.raises(WeightsError, match="from one checkpoint"):
        open_folder(folder)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"model": 3}'])
def test_broken_files(tmp_path: Path, content: str) -> None:
    folder = make_dolly(tmp_path)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        open_folder(folder)
