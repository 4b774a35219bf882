"""What the files of a tokenizer say: its definition, its names, its chat template.

The format of tokenizer.json is the one of the `tokenizers` library. Owns the change of a definition
that keeps text from becoming control tokens. Knows no model and imports nothing heavy.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import WeightsError
from .torch_checkpoint import TOKENIZER_CONFIG, read_json

SPECIAL_TOKENS = "special_tokens_map.json"
TEMPLATE = "chat_template.jinja"
_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_MARKER = re.compile(r"<\|[^\s<>|]+\|>")


@dataclass(frozen=True)
class Names:
    """What stands beside the definition."""

    begin: str
    end: str
    special: frozenset[str]
    """Spellings of all special tokens that are named."""
    added: tuple[dict[str, Any], ...]
    """Added tokens, in the form of tokenizer.json."""
    chat_template: str | None


def read_names(folder: Path) -> Names:
    """Raises WeightsError for files that cannot be read."""
    config = read_json(folder / SPECIAL_TOKENS, needed=False) | read_json(
        folder / TOKENIZER_CONFIG, needed=False
    )
    named = {name: _text(config.get(f"{name}_token")) for name in _NAMES}
    more: list[Any] = []
    for key in _LISTS:
        value = config.get(key)
        if isinstance(value, dict | list):
            more += value.values() if isinstance(value, dict) else value
    return Names(
        begin=named["bos"],
        end=named["eos"],
        special=frozenset(filter(None, [*named.values(), *map(_text, more)])),
        added=tuple(_added(config.get("added_tokens_decoder") or {})),
        chat_template=_template(folder, config.get("chat_template")),
    )


def is_marker(text: str) -> bool:
    """Whether a token is spelled as marks of turns are, whatever its file says of it."""
    return _MARKER.fullmatch(text) is not None


def complete(definition: dict[str, Any], names: Names, *, size: int) -> bool:
    """Adds the tokens that stand in other files alone and takes away those that a model of `size`
    tokens has no place for; tells whether anything changed."""
    before = definition["added_tokens"]
    spelled = {entry["content"] for entry in before}
    added = [*before, *(entry for entry in names.added if entry["content"] not in spelled)]
    spelled.update(entry["content"] for entry in names.added)
    vocabulary = definition["model"]["vocab"]
    if isinstance(vocabulary, dict):  # of Unigram vocabularies the file names all by itself
        for text in sorted(names.special - spelled):
            if text in vocabulary:
                flags = dict.fromkeys(_FLAGS, False) | {"special": True}
                added.append({"id": vocabulary[text], "content": text, **flags})
    definition["added_tokens"] = [entry for entry in added if entry["id"] < size]
    return bool(definition["added_tokens"] != before)


def finds_in_vocabulary(model: dict[str, Any], texts: Collection[str]) -> bool:
    """Whether the model itself can make one of `texts` a token, as a word like others.

    Byte-pair models find only what merges lead to; the others look for whole words.
    """
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        return True
    held = {text for text in texts if text in vocabulary}
    if "merges" not in model or model.get("ignore_merges"):
        return bool(held)
    return any(len(text) == 1 for text in held) or not all(
        _kept(merge, held) for merge in map(_pair, model["merges"])
    )


def without_control(definition: dict[str, Any], texts: Collection[str]) -> dict[str, Any]:
    """A definition whose tokens spelled like one of `texts` have names that nobody can guess.

    All ids stay. To be used with `encode_special_tokens`, which alone does not do where a model
    `finds_in_vocabulary`: to a Unigram model `</s>` is a word of its vocabulary.
    """
    names = {text: f"<{secrets.token_hex(16)}>" for text in texts}
    model = dict(definition["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [text, score], the id is the place
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    else:
        model["vocab"] = {names.get(text, text): token for text, token in vocabulary.items()}
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [merge for merge in map(_pair, model["merges"]) if _kept(merge, names)]
    added = [
        {**entry, "content": names[entry["content"]], "special": True}
        if entry["content"] in names
        else entry
        for entry in definition["added_tokens"]
    ]
    return {**definition, "model": model, "added_tokens": added, "post_processor": None}


def _text(token: Any) -> str:
    """A token's spelling: a text, or an object that holds it."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _added(decoder: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(decoder, dict):
        return
    for place in sorted((key for key in decoder if key.isdecimal()), key=int):
        entry = decoder[place]
        if text := _text(entry):
            flags = {name: bool(entry.get(name)) for name in _FLAGS}
            yield {"id": int(place), "content": text, **flags}


def _template(folder: Path, named: Any) -> str | None:
    """The template; of several by name, the default one. A file of its own goes before."""
    path = folder / TEMPLATE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8") or None
        except (OSError, UnicodeDecodeError) as error:
            raise WeightsError(f"{path} cannot be read: {error}; download it again") from error
    if isinstance(named, list):
        by_name = {entry.get("name"): entry for entry in named if isinstance(entry, dict)}
        named = by_name.get("default", {}).get("template")
    return named if isinstance(named, str) and named else None


def _pair(merge: str | list[str]) -> list[str]:
    """Older files write a merge as one text."""
    return merge.split(" ", 1) if isinstance(merge, str) else merge


def _kept(merge: list[str], texts: Collection[str]) -> bool:
    return "".join(merge) not in texts and not any(part in texts for part in merge)
