"""Tokens, names and templates are those that the library finds in the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from checkpoints import CHATML, EVERY, SPARE_TOKENS, make_gpt_neox, make_llama, make_t5

from open_llm_server.engine.torch_vocab import Vocabulary

from .files import edit, open_folder, spelled

pytestmark = pytest.mark.weights

SAMPLES = [
    "",
    " ",
    "Hello  dog, how are you?\n\n\tx",
    "naïve 😀 👩‍👩‍👧 你好,世界",
    "\0\x1f\ufeff\u200d",
]


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
