"""`start()` refuses what is no name of a model before it starts anything."""

from __future__ import annotations

from typing import Any

import pytest

import open_llm_server
from open_llm_server.errors import ConfigurationError


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": 5}, "keyword model: want a text such as 'tiny', or a list of them, not 5"),
        ({"model": None}, "keyword model: .*not None"),
        ({"model": b"fake"}, "keyword model: "),
        ({"model": ["fake", 5]}, r"keyword model: .*not \['fake', 5\]"),
        ({"model": "fake,,tiny"}, "comma with no model"),
        ({"model": "fake", "sets": 3}, "keyword sets: .*'tiny.top_k=3'"),
        ({"model": "fake", "sets": "fake.topk=3"}, "did you mean 'top_k'"),
        ({"model": "fake", "devices": {"fake": 1}.values()}, "keyword devices: .*'tiny:cpu'"),
    ],
)
def test_wrong_words(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        open_llm_server.start(**given)
