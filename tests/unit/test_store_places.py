"""Names of imported models: what BentoML takes, and back again."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_llm_server.errors import ConfigurationError
from open_llm_server.store.places import Tag, slug

BENTOML_NAME = re.compile(r"[a-z0-9]([-._a-z0-9]*[a-z0-9])?")
"""With at most 63 characters; see `bentoml._internal.tag`."""

hub_names = st.from_regex(r"[a-z0-9]([-._a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
versions = st.from_regex(r"[a-z0-9]([-._a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


ANY_TEXT = st.text(st.characters(), max_size=120)
"""Halves of surrogate pairs too: file names that are no text have them."""


@given(ANY_TEXT)
def test_every_text_has_a_name_that_bentoml_takes(text: str) -> None:
    name = slug(text)
    assert BENTOML_NAME.fullmatch(name)
    assert len(name) <= 63
    assert Tag.parse(f"{name}:1").name == name


@given(ANY_TEXT, ANY_TEXT)
def test_different_texts_have_different_names(one: str, other: str) -> None:
    assert (slug(one) == slug(other)) == (one == other)


@given(hub_names, hub_names)
def test_a_plain_hub_id_stays_readable(owner: str, name: str) -> None:
    text = f"{owner}/{name}"
    if "--" not in text:
        assert slug(text) == f"{owner}--{name}"


@given(hub_names, versions)
def test_a_tag_comes_back_from_its_text(name: str, version: str) -> None:
    tag = Tag(name, version)
    assert Tag.parse(str(tag)) == tag
    assert tag.folder.parts[-3:] == ("models", name, version)


@pytest.mark.parametrize("text", ["a", "a:", ":1", "A:1", "../a:1", "a:../b", "a/b:1", "a:.", ""])
def test_what_is_no_tag_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="models list --local"):
        Tag.parse(text)
