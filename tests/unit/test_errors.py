"""The error tree: every class is drawn, coded once, and survives its way through a frame."""

from __future__ import annotations

import pytest

from open_llm_server import errors
from open_llm_server.api.exchange import refusal_headers
from open_llm_server.errors import OpenLLMError, from_frame, tree

ALL = list(tree())


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_stands_in_the_drawing(kind: type[OpenLLMError]) -> None:
    assert errors.__doc__
    lines = [line for line in errors.__doc__.splitlines() if kind.__name__ in line.split()]
    lines += [line for line in errors.__doc__.splitlines() if f" {kind.__name__} " in f"{line} "]
    assert lines
    if kind is not OpenLLMError and not issubclass(kind, errors.StartError):
        assert kind.code in lines[0]
        assert str(kind.status) in lines[0]
        assert kind.grpc_status in lines[0]


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in ALL]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_errors_survive_frames(kind: type[OpenLLMError]) -> None:
    error = kind("what happened; what to do", param="messages.0", retry_after=2.5, n_ctx=16)
    again = from_frame(error.frame())
    assert type(again) is kind
    assert again.frame() == error.frame()
    assert again.body()["n_ctx"] == 16


@pytest.mark.parametrize(
    ("error", "may_repeat"),
    [
        (errors.InvalidField("m"), False),
        (errors.AuthenticationError("m"), False),
        (errors.EngineError("this request could not be computed"), False),
        (errors.DeadlineExceeded("m"), False),
        (errors.BodyTimeout("m"), True),
        (errors.QueueFull("m"), True),
        (errors.RunnerLost("m"), True),
        (errors.EngineError("the engine is being replaced", retry_after=1.0), True),
    ],
)
def test_which_requests_may_be_repeated(error: OpenLLMError, may_repeat: bool) -> None:
    assert error.may_repeat is may_repeat
    assert from_frame(error.frame()).may_repeat is may_repeat
    assert (b"x-should-retry", str(may_repeat).lower().encode()) in refusal_headers(error)


def test_an_unknown_code_is_an_engine_error() -> None:
    assert isinstance(from_frame({"code": "from the future", "message": "m"}), errors.EngineError)
