"""The tree of errors: the server's own names, codes and places; and whatever is said of them."""

from __future__ import annotations

import json
import pickle
from typing import Any

import open_llm_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_llm_client import _refusals, errors
from open_llm_client._http_reading import Reading
from open_llm_client._requests import Request

from open_llm_server import errors as server

OWN = {"ConnectionFailed", "ConnectionLost", "TimedOut", "BadAnswer"}
NOT_FOR_CALLERS = {error.__name__ for error in server.tree(server.StartError)}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
error_objects = json_values | st.fixed_dictionaries(
    {},
    optional={
        name: json_values | st.text()
        for name in ("message", "code", "param", "type", "request_id", "extra", "status", "self")
    },
)


def test_the_tree_is_the_servers() -> None:
    theirs = {error.__name__: error for error in server.tree()}
    ours = {error.__name__: error for error in errors.tree()}
    assert set(ours) == set(theirs) - NOT_FOR_CALLERS | OWN
    for name in set(ours) - OWN:
        mine, their = ours[name], theirs[name]
        assert mine.__mro__[1].__name__ == their.__mro__[1].__name__
        for fact in ("code", "status", "grpc_status", "type"):
            assert getattr(mine, fact) == getattr(their, fact), (name, fact)
        assert f"{name} " in (errors.__doc__ or "")


def test_names_and_versions_on_the_package() -> None:
    import open_llm_server

    for error in errors.tree():
        assert getattr(open_llm_client, error.__name__) is error
        assert error.__name__ in open_llm_client.__all__
    assert open_llm_client.__version__ == open_llm_server.__version__


@pytest.mark.parametrize("kind", [*errors.tree()])
def test_errors_travel_between_processes(kind: type[errors.OpenLLMError]) -> None:
    error = kind("why", param="p", retry_after=1.5, request_id="id", extra={"n_ctx": 3})
    error.status = 418
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind and str(back) == "why"
    assert vars(back) == vars(error) and back.extra == {"n_ctx": 3}


@given(error=error_objects, status=st.integers(400, 599))
def test_any_error_body_becomes_an_error_with_a_text(error: Any, status: int) -> None:
    reading = Reading(Request("chat", {}), "http://127.0.0.1:5000/chat", "mine")
    headers = {"content-type": "application/json", "x-should-retry": "true"}
    reading.head(status, headers.get)
    assert [*reading.feed(json.dumps({"error": error}).encode())] == []
    with pytest.raises(errors.OpenLLMError) as raised:
        reading.end()
    told = raised.value
    assert str(told) and told.request_id
    assert told.code
    assert pickle.loads(pickle.dumps(told)).args == told.args


@given(body=st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
@pytest.mark.parametrize("status", [200, 400, 503])
@pytest.mark.parametrize("kind", ["chat", "complete", "embed", "models", "health"])
def test_any_body_is_an_answer_or_an_error(kind: Any, status: int, body: bytes) -> None:
    reading = Reading(Request(kind, {}), "http://127.0.0.1:5000/chat", None)
    reading.head(status, {"content-type": "application/json"}.get)
    assert [*reading.feed(body)] == []
    with pytest.raises(errors.OpenLLMError):
        reading.end()


@given(st.text())
def test_any_text_becomes_printable(text: str) -> None:
    kept = _refusals.plain(text)
    assert len(kept) == len(text[: _refusals.LONGEST_TEXT])
    assert all(each.isprintable() or each in "\n\t" for each in kept)


@given(st.text() | st.floats().map(str) | st.integers().map(str))
def test_any_waiting_time_is_seconds_or_nothing(text: str) -> None:
    wait_s = _refusals.retry_after({"retry-after": text}.get)
    assert wait_s is None or 0 <= wait_s < float("inf")
