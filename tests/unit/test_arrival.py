"""What callers and the supervisor hear of a model whose weights are on their way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from open_llm_server.arrival import LONGEST_RETRY_S, Arrival, GivenUp, facts_of
from open_llm_server.config.merge import resolve_model
from open_llm_server.store import places
from open_llm_server.store.progress import Progress
from open_llm_server.supervisor_logs import PROGRESS

SMALL = "org--name:0123456789ab-q8_0"
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


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (SMALL, False),
        ("other:0123456789ab-q8_0", False),
        ("org--name:0123456789ab", True),
        ("org--name:0123456789ab-q4_k_m", True),
        ("org--name:ba9876543210-q8_0", True),
    ],
)
def test_other_weights_are_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    now: str,
    told: bool,
) -> None:
    """What served before is gone from the store, and another takes its place."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    plan = resolve_model("flan-t5@org/name")
    for tag in (SMALL, now):
        stored = str(places.models() / tag.replace(":", "/") / "model.gguf")
        arrival = Arrival(plan, tmp_path)
        arrival._remember(plan.model_copy(update={"stored": stored}))
    assert len(caplog.messages) == told
    if told:
        assert f"no longer has {SMALL}, which model flan-t5" in caplog.text
        assert f"it serves {now} from now on" in caplog.text
    assert arrival._remembered() == stored


def test_an_import_ends_when_the_process_does(arrival: Arrival) -> None:
    arrival.give_up()
    with pytest.raises(GivenUp):
        arrival._hear(HALF)
