"""Bad JSON and bad fields over every route: always a 4xx that names the field, and the next
request works."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgi import App, app_of, call, get, post
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import GOOD, PATHS, refused

from open_llm_server.api.routes import GENERATE

TEXT_PATHS = [path for path in PATHS if "embed" not in path]
NATIVE_TEXT_PATHS = ["/chat", "/chat-sse", "/complete"]


@pytest.fixture
def app() -> App:
    return app_of(body_limit=64 * 1024)


def test_every_route_is_tried() -> None:
    assert [route.path for route in GENERATE] == PATHS


MALFORMED = [
    b"",
    b"{",
    b"hello",
    b"null",
    b"[]",
    b'{"prompt": "a",}',
    b"\xff\xfe",
    b'{"prompt": "\xff"}',
    b'{"prompt": "\\ud83d"}',
    b'{"prompt": "\xed\xa0\xbd"}',
    b"[" * 30_000,
    b'{"a":' * 10_000,
    '{"prompt": "a"}'.encode("utf-16"),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", MALFORMED, ids=[repr(body[:24]) for body in MALFORMED])
async def test_malformed_json(app: App, path: str, body: bytes) -> None:
    error = await refused(app, path, body)
    assert error["code"] == "invalid_json"


@pytest.mark.parametrize("path", PATHS)
async def test_a_name_twice(app: App, path: str) -> None:
    body = json.dumps(GOOD[path])[:-1] + ', "zz": 1, "zz": 2}'
    error = await refused(app, path, body.encode(), param="zz")
    assert error["code"] == "invalid_json"


@pytest.mark.parametrize("path", PATHS)
async def test_nan_under_an_unknown_name(app: App, path: str) -> None:
    body = json.dumps(GOOD[path])[:-1] + ', "zz": [NaN]}'
    assert (await refused(app, path, body.encode()))["code"] == "invalid_json"


WRONG: list[Any] = ["x", True, [1], {"a": 1}, -1, 10**30, 1.5e300, -(10**400)]
NUMBERS = {
    "temperature": TEXT_PATHS,
    "top_p": TEXT_PATHS,
    "top_k": TEXT_PATHS,
    "min_p": TEXT_PATHS,
    "max_tokens": TEXT_PATHS,
    "repetition_penalty": TEXT_PATHS,
    "num_beams": TEXT_PATHS,
    "n": ["/complete", "/v1/chat/completions", "/v1/completions"],
    "top_logprobs": ["/v1/chat/completions"],
    "best_of": ["/v1/completions"],
    "max_completion_tokens": ["/v1/chat/completions"],
    "dimensions": ["/v1/embeddings"],
}
SIGNED_NUMBERS = {
    "frequency_penalty": TEXT_PATHS,
    "presence_penalty": TEXT_PATHS,
    "seed": TEXT_PATHS,
}


@pytest.mark.parametrize(
    ("field", "path"), [(field, path) for field, paths in NUMBERS.items() for path in paths]
)
async def test_numbers_of_wrong_type_or_size(app: App, field: str, path: str) -> None:
    for value in WRONG:
        error = await refused(app, path, GOOD[path] | {field: value}, param=field)
        assert error["code"] == "invalid_value"


@pytest.mark.parametrize(
    ("field", "path"), [(field, path) for field, paths in SIGNED_NUMBERS.items() for path in paths]
)
async def test_signed_numbers_of_wrong_type_or_size(app: App, field: str, path: str) -> None:
    for value in ["x", True, [1], {"a": 1}, 10**30, 1.5e300, -(10**400)]:
        await refused(app, path, GOOD[path] | {field: value}, param=field)


@pytest.mark.parametrize("path", TEXT_PATHS)
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
async def test_numbers_that_are_none(app: App, path: str, number: str) -> None:
    body = json.dumps(GOOD[path])[:-1] + f', "temperature": {number}}}'
    await refused(app, path, body.encode(), param="temperature")


@pytest.mark.parametrize("path", PATHS)
async def test_unknown_models(app: App, path: str) -> None:
    for name in ("llama", "", "../../etc/passwd", "echo\r\nX: y", "x" * 10_000, "ECHO"):
        error = await refused(app, path, GOOD[path] | {"model": name}, status=404, param="model")
        assert error["code"] == "model_not_found"
        assert "this server has: echo" in error["message"]
    wrong: Any
    for wrong in (1, [], {}, True):
        await refused(app, path, GOOD[path] | {"model": wrong}, param="model")
    assert (await get(app, "/v1/models/llama")).status == 404


@pytest.mark.parametrize("path", ["/chat", "/chat-sse", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("hello", "messages"),
        ([[]], "messages.0"),
        ([{"role": "wizard", "content": "x"}], "messages.0.role"),
        ([{"role": "tool", "content": "x"}], "messages.0.role"),
        ([{"role": "user"}], "messages.0.content"),
        ([{"role": "user", "content": 5}], "messages.0.content"),
        ([{"role": "user", "content": "a"}, {"content": "x"}], "messages.1.role"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "messages.0.content.0.type",
        ),
        ([{"role": "user", "content": "x"}] * 2049, "messages"),
    ],
)
async def test_bad_messages(path: str, messages: Any, param: str) -> None:
    await refused(app_of(), path, {"messages": messages}, param=param)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/chat", {}, "prompt"),
        ("/chat", {"prompt": "x", "messages": [{"role": "user", "content": "y"}]}, "messages"),
        ("/chat", {"prompt": ["x"]}, "prompt"),
        ("/chat", {"prompt": "x", "n": 3}, "n"),
        ("/chat", {"prompt": "x", "stream": "yes"}, "stream"),
        ("/complete", {}, "prompt"),
        ("/complete", {"prompt": ["x"]}, "prompt"),
        ("/embed", {}, "input"),
        ("/embed", {"input": []}, "input"),
        ("/embed", {"input": [{}]}, "input.0"),
        ("/v1/chat/completions", {}, "messages"),
        ("/v1/completions", {}, "prompt"),
        ("/v1/completions", {"prompt": None}, "prompt"),
        ("/v1/completions", {"prompt": [[]]}, "prompt.0"),
        ("/v1/completions", {"prompt": ["x", 1]}, "prompt.1"),
        ("/v1/completions", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ("/v1/embeddings", {"input": "x", "dimensions": 3}, "dimensions"),
    ],
)
async def test_bad_fields_of_one_route(app: App, path: str, body: Any, param: str) -> None:
    await refused(app, path, body, param=param)


@pytest.mark.parametrize("path", TEXT_PATHS)
async def test_bad_stop_texts(app: App, path: str) -> None:
    field = "stop_sequence" if path in NATIVE_TEXT_PATHS else "stop"
    for value, param in (
        ("", field),
        ([""], f"{field}.0"),
        (["a"] * 17, field),
        ("x" * 257, field),
        (5, field),
        ([5], field),
        (["a", 5], f"{field}.1"),
    ):
        await refused(app, path, GOOD[path] | {field: value}, param=param)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/chat", {"prompt": "a " * 5000}, "prompt"),
        ("/chat-sse", {"prompt": "a " * 5000}, "prompt"),
        ("/complete", {"prompt": "a " * 5000}, "prompt"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a " * 5000}], "stream": True},
            "messages",
        ),
        ("/v1/completions", {"prompt": "a " * 5000, "stream": True}, "prompt"),
        ("/v1/completions", {"prompt": ["a", "a " * 5000]}, "prompt.1"),
    ],
)
async def test_a_prompt_over_the_context(app: App, path: str, body: Any, param: str) -> None:
    error = await refused(app, path, body, param=param)
    assert error["code"] == "context_length_exceeded"
    assert error["n_prompt_tokens"] >= 5000
    assert error["n_ctx"] == 4096


@pytest.mark.parametrize("path", PATHS)
async def test_many_equal_letters_are_an_answer_or_a_refusal(path: str) -> None:
    field = "input" if "embed" in path else "messages" if "chat/" in path else "prompt"
    letters: Any = "A" * 200_000
    value = [{"role": "user", "content": letters}] if field == "messages" else letters
    app = app_of()
    assert (await post(app, path, {field: value})).status == 200
    assert (await post(app, path, GOOD[path])).status == 200


# -- whatever ----------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)
FIELDS = sorted({name for route in GENERATE for name in route.body.model_fields})
SHARED_APP: list[App] = []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    path=st.sampled_from(PATHS),
    fields=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), json_values, max_size=4),
    complete=st.booleans(),
)
async def test_any_json(path: str, fields: dict[str, Any], complete: bool) -> None:
    if not SHARED_APP:
        SHARED_APP.append(app_of())
    body = {**(GOOD[path] if complete else {}), **fields}
    reply = await post(SHARED_APP[0], path, json.dumps(body).encode("utf-8", "surrogatepass"))
    assert reply.status in (200, 400, 404), reply.text
    if reply.status != 200:
        assert set(reply.error) >= {"message", "type", "param", "code"}


@settings(max_examples=100, deadline=None)
@given(path=st.sampled_from(PATHS), body=st.binary(max_size=300))
async def test_any_bytes(path: str, body: bytes) -> None:
    if not SHARED_APP:
        SHARED_APP.append(app_of())
    reply = await post(SHARED_APP[0], path, body)
    assert reply.status == 400


async def test_unknown_paths_and_methods(app: App) -> None:
    reply = await post(app, "/v1/chat/completion", {})
    assert reply.status == 404
    assert "/v1/chat/completions" in reply.error["message"]
    assert (await post(app, "/chat/", {})).status == 404
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"):
        reply = await call(app, method, "/chat")
        assert reply.status == 405
        assert reply.headers["allow"] == "POST"
    reply = await call(app, "POST", "/livez")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
