"""What callers and the supervisor hear of a model whose weights are on their way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from open_llm_server.arrival import LONGEST_RETRY_S, Arrival, GivenUp, facts_of
from open_llm_server.config.merge import resolve_model
from open_llm_server.store.progress import Progress
from open_llm_server.supervisor_logs import PROGRESS

HALF = Progress("downloading", 50, 200, note="a.gguf", rate=10.0, eta_s=15.0)


@pytest.fixture
def arrival(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Arrival:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    return Arrival(resolve_model("flan-t5@org/name"), tmp_path)


def test_a_model_that_is_here_is_left_alone() -> None:
    plan = resolve_model("tiny")
    assert Arrival(plan, None).complete() is plan


def test_a_model_that_is_being_loaded(arrival: Arrival) -> None:
    error = arrival.refusal()
    assert error.message == "model 'flan-t5' is being loaded; try again shortly"
    assert error.extra == {}


def test_a_model_that_is_being_imported(
    arrival: Arrival, capfd: pytest.CaptureFixture[str]
) -> None:
    arrival._hear(HALF)
    error = arrival.refusal()
    assert "is being imported (downloading, 25 %)" in error.message
    assert error.retry_after == 17.0
    assert error.extra == {"progress": facts_of(HALF)}
    line = capfd.readouterr().err
    assert Progress(**json.loads(line.removeprefix(PROGRESS))) == HALF


@pytest.mark.parametrize(
    ("progress", "retry_after"),
    [
        (Progress("resolving"), 10.0),
        (Progress("downloading", 1, 10**12, eta_s=1e9), LONGEST_RETRY_S),
    ],
)
def test_when_to_ask_again(arrival: Arrival, progress: Progress, retry_after: float) -> None:
    arrival._hear(progress)
    assert arrival.refusal().retry_after == retry_after


def test_an_import_ends_when_the_process_does(arrival: Arrival) -> None:
    arrival.give_up()
    with pytest.raises(GivenUp):
        arrival._hear(HALF)
