"""Text to tokens and back: equal to the library, exact in bytes, and safe from control tokens."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import transformers
from checkpoints import (
    CHATML,
    EVERY,
    SPARE_TOKENS,
    make_bert,
    make_dolly,
    make_gpt_neox,
    make_llama,
    make_t5,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from open_llm_server.engine.torch_checkpoint import Checkpoint
from open_llm_server.engine.torch_vocab import Vocabulary
from open_llm_server.errors import WeightsError

pytestmark = pytest.mark.weights

BYTE_LEVEL = ["bloom", "gpt-neox", "dolly", "stablelm", "stablelm-tuned"]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
SAMPLES = [
    "",
    " ",
    "Hello  dog, how are you?\n\n\tx",
    "naïve 😀 👩‍👩‍👧 你好,世界",
    "\0\x1f\ufeff\u200d",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("vocabularies")
    return {name: make(root / name) for name, make in EVERY.items()}


@pytest.fixture(scope="module")
def vocabularies(folders: dict[str, Path]) -> dict[str, Vocabulary]:
    return {name: open_folder(folder) for name, folder in folders.items()}


def checkpoint(folder: Path) -> Checkpoint:
    generation = folder / "generation_config.json"
    return Checkpoint(
        folder,
        json.loads((folder / "config.json").read_text()),
        json.loads(generation.read_text()) if generation.is_file() else {},
    )


def open_folder(folder: Path, *end_texts: str) -> Vocabulary:
    return Vocabulary(checkpoint(folder), end_texts=end_texts)


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def spelled(vocabulary: Vocabulary, tokens: Collection[int]) -> bytes:
    return b"".join(map(vocabulary.piece, tokens))


def control_ids(folder: Path) -> set[int]:
    """Ids of special tokens, by the file's own word; not the one for unknown text."""
    content = json.loads((folder / "tokenizer.json").read_text())
    unknown = {"<unk>", "[UNK]"}
    return {
        entry["id"]
        for entry in content["added_tokens"]
        if entry["special"] and entry["content"] not in unknown
    }


# -- the library's answers -------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_tokens_equal_the_librarys(
    name: str, folders: dict[str, Path], vocabularies: dict[str, Vocabulary]
) -> None:
    library = transformers.AutoTokenizer.from_pretrained(folders[name])
    vocabulary = vocabularies[name]
    mixed = " x ".join(sorted(vocabulary.control_texts))
    for text in [*SAMPLES, mixed]:
        own = vocabulary.tokenize(text, begin=True, control=True)
        assert [*own, *vocabulary.suffix] == library(text, truncation=False).input_ids


@pytest.mark.parametrize(
    ("name", "begin", "suffix"),
    [("flan-t5", [], (1,)), ("bloom", [], ()), ("llama", [1], ()), ("minilm", [2], (3,))],
)
def test_what_is_put_around_a_text(
    name: str, begin: list[int], suffix: tuple[int, ...], vocabularies: dict[str, Vocabulary]
) -> None:
    vocabulary = vocabularies[name]
    assert vocabulary.suffix == suffix
    assert vocabulary.tokenize("", begin=True, control=False) == begin
    assert vocabulary.tokenize("", begin=False, control=True) == []


def test_a_file_that_puts_nothing_around_a_text(tmp_path: Path) -> None:
    folder = make_t5(tmp_path)
    edit(folder, "tokenizer.json", lambda content: content.update(post_processor=None))
    edit(folder, "tokenizer_config.json", lambda content: content.update(tokenizer_class="None"))
    assert open_folder(folder).suffix == ()


def test_names_and_templates(vocabularies: dict[str, Vocabulary]) -> None:
    llama, stablelm = vocabularies["llama"], vocabularies["stablelm"]
    assert (llama.begin_text, llama.end_text) == ("<s>", "</s>")
    assert vocabularies["minilm"].end_text == ""
    assert llama.chat_template is None
    assert stablelm.chat_template == CHATML
    assert stablelm.control_texts == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}


def test_templates_in_other_places(tmp_path: Path) -> None:
    folder = make_gpt_neox(tmp_path)
    (folder / "chat_template.jinja").write_text("of a file")
    assert open_folder(folder).chat_template == "of a file"
    (folder / "chat_template.jinja").unlink()
    named = [
        {"name": "tool_use", "template": "with tools"},
        {"name": "default", "template": "the usual one"},
    ]
    edit(folder, "tokenizer_config.json", lambda content: content.update(chat_template=named))
    assert open_folder(folder).chat_template == "the usual one"


def test_names_that_the_files_leave_to_the_model(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    vocabulary = open_folder(folder)
    assert (vocabulary.begin_text, vocabulary.end_text) == ("<s>", "</s>")
    assert vocabulary.end_tokens == {2}


def test_tokens_that_other_files_add(tmp_path: Path) -> None:
    folder = make_gpt_neox(tmp_path)
    first = open_folder(folder).size - SPARE_TOKENS
    decoder = {
        str(first + 1): {"content": "[B]", "special": False},
        str(first): {"content": "[A]", "special": True},
        "99999": {"content": "[C]", "special": True},
    }

    def add(content: dict[str, Any]) -> None:
        content.update(added_tokens_decoder=decoder, pad_token={"content": "z"})

    edit(folder, "tokenizer_config.json", add)
    vocabulary = open_folder(folder)
    assert {"[A]", "z"} <= vocabulary.control_texts
    tokens = vocabulary.tokenize("[A][B][C]z", begin=False, control=True)
    assert tokens[:2] == [first, first + 1]
    assert spelled(vocabulary, tokens) == b"[B][C]"
    tokens = vocabulary.tokenize("[A][B]", begin=False, control=False)
    assert first not in tokens
    assert first + 1 in tokens


def test_limits_for_training_do_not_count(vocabularies: dict[str, Vocabulary]) -> None:
    """MiniLM's file cuts texts to 128 tokens and pads them."""
    vocabulary = vocabularies["minilm"]
    assert len(vocabulary.tokenize("dog " * 500, begin=True, control=True)) == 501
    assert len(vocabulary.tokenize("dog", begin=True, control=True)) == 2


# -- bytes -----------------------------------------------------------------------------------


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


# -- control tokens --------------------------------------------------------------------------


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


# -- ends ------------------------------------------------------------------------------------


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


# -- hard input ------------------------------------------------------------------------------


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


# -- files that do not fit -------------------------------------------------------------------


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
