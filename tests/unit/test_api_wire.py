"""Bodies: what is JSON, what fits, how a misfit is named, what is reported as ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_llm_server import core
from open_llm_server.api.fields import Inputs, Messages, Prompts, Stop, listed, messages
from open_llm_server.api.wire import Wire, ignored_header, ignored_names, parse
from open_llm_server.errors import InvalidField, InvalidJSON, NotSupported, RequestError


class Inner(Wire):
    known: int | None = None


class Sample(Wire):
    text: str
    temperature: core.Temperature | None = None
    count: int | None = None
    stop: Stop | None = None
    prompt: Prompts | None = None
    input: Inputs | None = None
    messages: Messages | None = None
    inner: Inner | None = None


def sample(**fields: Any) -> Sample:
    return parse(Sample, json.dumps({"text": "x", **fields}).encode())


NOT_JSON = {
    "empty": b"",
    "blank": b"  \n",
    "word": b"hello",
    "cut off": b'{"text": "x"',
    "cut text": b'{"text": "x',
    "trailing comma": b'{"text": "x",}',
    "trailing text": b'{"text": "x"} {}',
    "single quotes": b"{'text': 'x'}",
    "comment": b'{"text": "x"} // no',
    "control character": b'{"text": "a\x00b"}',
    "bad escape": b'{"text": "\\q"}',
    "NaN": b'{"text": "x", "other": NaN}',
    "Infinity": b'{"text": "x", "other": [-Infinity]}',
    "leading zero": b'{"text": "x", "count": 01}',
    "huge integer": b'{"text": "x", "other": ' + b"9" * 5000 + b"}",
    "lone high surrogate": b'{"text": "\\ud800"}',
    "lone low surrogate": b'{"text": "\\udc00 x"}',
    "surrogate in a name": b'{"text": "x", "\\ud800": 1}',
    "surrogate bytes": b'{"text": "\xed\xa0\x80"}',
    "not UTF-8": b'{"text": "\xff"}',
    "half a character": b'{"text": "\xe4\xb8"}',
    "overlong": b'{"text": "\xc0\xaf"}',
    "latin-1": '{"text": "é"}'.encode("latin-1"),
    "UTF-16": '{"text": "x"}'.encode("utf-16"),
    "UTF-32": '{"text": "x"}'.encode("utf-32"),
    "byte order mark": b'\xef\xbb\xbf{"text": "x"}',
    "deep lists": b'{"text": "x", "other": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "unclosed depth": b"[" * 200_000,
    "a list": b"[]",
    "a text": b'"text"',
    "null": b"null",
    "a number": b"1",
    "a name twice": b'{"text": "x", "text": "y"}',
    "an unknown name twice": b'{"text": "x", "other": 1, "other": 1}',
    "a nested name twice": b'{"text": "x", "inner": {"known": 1, "known": 2}}',
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_one_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJSON) as refused:
        parse(Sample, body)
    assert len(refused.value.message) < 300


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"text": None}, "text"),
    "number for text": ({"text": 1}, "text"),
    "text for number": ({"temperature": "0.5"}, "temperature"),
    "true for number": ({"temperature": True}, "temperature"),
    "list for number": ({"temperature": [1]}, "temperature"),
    "above": ({"temperature": 2.01}, "temperature"),
    "below": ({"temperature": -0.01}, "temperature"),
    "huge": ({"temperature": 1e308}, "temperature"),
    "huge integer": ({"temperature": 10**400}, "temperature"),
    "fraction": ({"count": 1.5}, "count"),
    "float for integer": ({"count": 1.0}, "count"),
    "true for integer": ({"count": True}, "count"),
    "stop of a wrong type": ({"stop": 5}, "stop"),
    "stop with a number": ({"stop": ["a", 5]}, "stop.1"),
    "empty stop": ({"stop": [""]}, "stop.0"),
    "long stop": ({"stop": "x" * 257}, "stop"),
    "many stops": ({"stop": ["x"] * 17}, "stop"),
    "empty prompts": ({"prompt": []}, "prompt"),
    "prompt of a wrong type": ({"prompt": {"text": "x"}}, "prompt"),
    "mixed prompts": ({"prompt": ["a", 1]}, "prompt.1"),
    "mixed tokens": ({"prompt": [1, "a"]}, "prompt.1"),
    "negative token": ({"prompt": [1, -1]}, "prompt.1"),
    "huge token": ({"prompt": [[1], [2**31]]}, "prompt.1.0"),
    "true as token": ({"prompt": [1, True]}, "prompt.1"),
    "empty token list": ({"prompt": [[1], []]}, "prompt.1"),
    "null prompt among": ({"prompt": ["a", None]}, "prompt.1"),
    "too many prompts": ({"prompt": ["a"] * 129}, "prompt"),
    "too many inputs": ({"input": ["a"] * 2049}, "input"),
    "input of a wrong type": ({"input": 1}, "input"),
    "no messages": ({"messages": []}, "messages"),
    "messages as text": ({"messages": "hello"}, "messages"),
    "message as text": ({"messages": ["hello"]}, "messages.0"),
    "no role": ({"messages": [{"content": "x"}]}, "messages.0.role"),
    "no content": ({"messages": [{"role": "user"}]}, "messages.0.content"),
    "null content": ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    "number as content": ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content"),
    "text as part": (
        {"messages": [{"role": "user", "content": ["x"]}]},
        "messages.0.content.0",
    ),
    "too many messages": ({"messages": [{"role": "user", "content": "x"}] * 2049}, "messages"),
    "nested": ({"inner": {"known": "x"}}, "inner.known"),
}


@pytest.mark.parametrize(("fields", "param"), MISFITS.values(), ids=MISFITS.keys())
def test_a_misfit_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidField) as refused:
        sample(**fields)
    assert refused.value.param == param
    assert refused.value.message.startswith(f"{param}: ")
    assert len(refused.value.message) < 300


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"])
def test_numbers_that_are_none_are_named(number: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        parse(Sample, b'{"text": "x", "temperature": %s}' % number)
    assert refused.value.param == "temperature"


def test_a_million_wrong_items_are_one_error() -> None:
    with pytest.raises(InvalidField) as refused:
        sample(prompt=[1] + ["x"] * 200_000)
    assert refused.value.param == "prompt.1"


def test_null_is_the_same_as_nothing() -> None:
    assert sample(temperature=None, stop=None, prompt=None) == sample()


@pytest.mark.parametrize(
    ("value", "items", "single"),
    [
        ("a", ("a",), True),
        (["a", "b"], ("a", "b"), False),
        (["a"], ("a",), False),
        ([1, 2], ((1, 2),), True),
        ([[1], [2, 3]], ((1,), (2, 3)), False),
    ],
)
def test_texts_and_tokens_come_in_four_forms(value: Any, items: Any, single: bool) -> None:
    assert listed(sample(prompt=value).prompt) == (items, single)
    assert listed(sample(input=value).input) == (items, single)


def test_messages_become_cores() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    sent = sample(
        messages=[
            {"role": "system", "content": "s"},
            {"role": "developer", "content": "d"},
            {"role": "user", "content": parts, "name": "me"},
            {"role": "assistant", "content": "", "tool_calls": [], "refusal": None},
        ]
    )
    assert sent.messages is not None
    assert [(turn.role, turn.content) for turn in messages(sent.messages)] == [
        ("system", "s"),
        ("system", "d"),
        ("user", "one two"),
        ("assistant", ""),
    ]
    assert ignored_names(sent) == ["messages.name", "messages.tool_calls"]


IMAGE = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}


@pytest.mark.parametrize(
    ("message", "kind", "param"),
    [
        ({"role": "wizard", "content": "x"}, InvalidField, "messages.0.role"),
        ({"role": "", "content": "x"}, InvalidField, "messages.0.role"),
        ({"role": "tool", "content": "x"}, NotSupported, "messages.0.role"),
        ({"role": "function", "content": "x"}, NotSupported, "messages.0.role"),
        ({"role": "user", "content": [IMAGE]}, NotSupported, "messages.0.content.0.type"),
        (
            {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "input_audio"}]},
            NotSupported,
            "messages.0.content.1.type",
        ),
        (
            {"role": "user", "content": [{"type": "text"}]},
            InvalidField,
            "messages.0.content.0.text",
        ),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]},
            NotSupported,
            "messages.0.tool_calls",
        ),
    ],
)
def test_messages_that_are_no_text_are_refused_by_name(
    message: dict[str, Any], kind: type[RequestError], param: str
) -> None:
    sent = sample(messages=[message])
    assert sent.messages is not None
    with pytest.raises(kind) as refused:
        messages(sent.messages)
    assert refused.value.param == param


def test_ignored_names_are_listed_once_and_cleaned() -> None:
    sent = sample(inner={"known": 1, "odd": 2}, other=1, none=None, **{"a\r\nX-Evil: 1": 2})
    names = ignored_names(sent)
    assert names == ["other", "a\r\nX-Evil: 1", "inner.odd"]
    assert ignored_header(names) == b"other, a??X-Evil??1, inner.odd"
    many = ignored_header(["n" * 1000] * 1000)
    assert len(many) < 2300
    assert many.endswith(b", ...")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from([*Sample.model_fields, "other"]), json_values))
def test_any_json_is_read_or_refused(fields: dict[str, Any]) -> None:
    param: str | None = None
    try:
        sent = parse(Sample, json.dumps(fields).encode("utf-8", "surrogatepass"))
    except RequestError as refused:
        param = refused.param
    else:
        assert isinstance(sent.text, str)
    assert param is None or len(param) <= 200


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with pytest.raises(RequestError):
        parse(Sample, body + b"\xff")
