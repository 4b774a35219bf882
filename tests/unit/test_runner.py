"""A runner without a server: the model in this process, through BentoML's own local handle."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from open_llm_server import errors
from open_llm_server.config.merge import resolve_model
from open_llm_server.core import InfoRequest, Message
from open_llm_server.frames import Call, Info, encode_call
from open_llm_server.port import Busy, Lost
from open_llm_server.runner import LLMRunner, get_runner

INFO = encode_call(Call.of(InfoRequest(), id="x"))


@pytest.fixture
async def runner() -> AsyncIterator[LLMRunner]:
    made = get_runner("fake", reply_tokens=3, temperature=0.0)
    made.init_local(quiet=True)
    yield made
    await made.destroy()


async def test_chat(runner: LLMRunner) -> None:
    answer = await runner.chat("Hello", temperature=0.5)
    assert answer.message
    assert answer.finish_reason == "stop"
    assert answer.usage.completion_tokens > 0
    assert answer.configuration["temperature"] == 0.5
    turns = [Message(role="user", content="Hello")]
    assert (await runner.chat(turns)).message == (await runner.chat("Hello")).message


async def test_a_streamed_chat_is_the_same_text(runner: LLMRunner) -> None:
    pieces = [piece async for piece in runner.chat_stream("Hello")]
    assert "".join(pieces) == (await runner.chat("Hello")).message


async def test_complete(runner: LLMRunner) -> None:
    answer = await runner.complete(["one", "two"], n=2, max_tokens=2)
    assert len(answer.choices) == 4
    assert answer.choices[0].text == answer.choices[1].text != answer.choices[2].text
    pieces = [piece async for piece in runner.complete_stream("one", max_tokens=2)]
    assert "".join(pieces) == answer.choices[0].text


async def test_embed_and_info(runner: LLMRunner) -> None:
    answer = await runner.embed(["one", "two"])
    assert [len(vector) for vector in answer.embeddings] == [answer.dimension] * 2
    facts = await runner.info()
    assert (facts["ready"], facts["model"]) == (True, "fake")


async def test_refusals_are_errors_of_the_tree(runner: LLMRunner) -> None:
    with pytest.raises(errors.InvalidField, match="temperature"):
        await runner.chat("Hello", temprature=1)
    with pytest.raises(errors.ContextLengthExceeded):
        await runner.chat("x" * 100_000)
    with pytest.raises(errors.ContextLengthExceeded):
        await anext(runner.chat_stream("x" * 100_000))


async def test_a_runner_of_no_service_says_so() -> None:
    runner = get_runner("fake")
    with pytest.raises(Lost, match="init_local") as raised:
        await anext(runner.stream(INFO))
    assert not raised.value.started
    with pytest.raises(errors.RunnerLost, match="init_local"):
        await runner.chat("Hello")


async def test_while_a_runner_is_down_its_socket_is_left_alone(tmp_path: Path) -> None:
    runner = LLMRunner(resolve_model("fake"), runtime_dir=tmp_path)
    runner.init_local(quiet=True)
    note = tmp_path / f"{runner.name}.down"
    note.write_text(json.dumps({"until": time.time() + 100, "reason": "x"}))
    with pytest.raises(Busy) as raised:
        await anext(runner.stream(INFO))
    assert 0 < raised.value.retry_after <= 100
    for stale in (json.dumps({"until": time.time() - 1, "reason": "x"}), "half a no"):
        note.write_text(stale)
        frames = [frame async for frame in runner.stream(INFO)]
        assert isinstance(frames[-1], Info)
    await runner.destroy()


def test_configuration_is_checked_where_it_is_said() -> None:
    with pytest.raises(errors.ConfigurationError, match="reply_tokens"):
        get_runner("fake", reply_token=3)
    with pytest.raises(errors.ConfigurationError, match="fake"):
        get_runner("fakee")


@pytest.mark.parametrize("model", ["other=fake", "fake"])
def test_a_model_is_named_as_on_the_command_line(model: str) -> None:
    runner = get_runner("fake", model)
    assert runner.name == f"olm-{model.partition('=')[0]}-0"
    assert repr(runner) == f"LLMRunner('{runner.name}')"


def test_placement_reaches_bentoml() -> None:
    runner = get_runner("fake", device="cpu", threads=3)
    (environment,) = runner.scheduled_worker_env_map.values()
    assert environment["CUDA_VISIBLE_DEVICES"] == "-1"
    assert environment["OMP_NUM_THREADS"] == "3"


def test_two_runners_do_not_share_methods_or_limits() -> None:
    one, two = get_runner("fake", "one=fake"), get_runner("fake", "two=fake")
    classes: list[Any] = [one.runnable_class, two.runnable_class]
    assert classes[0].bentoml_runnable_methods__ is not classes[1].bentoml_runnable_methods__
    assert [method.name for method in one.runner_methods] == ["call"]
