"""Every known trick by which a checkpoint ran code: refused or without effect, by each door.

Each checkpoint goes through the real loaders in a process of its own, three times: imported,
started directly, and handed to the library as if the gate had overlooked it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostile import LOADED, TRICKS, Fate, spoiled

from open_llm_server.engine.torch_lora import check_adapter
from open_llm_server.errors import WeightsError

pytestmark = pytest.mark.weights

LIMIT_S = 300
HERE = Path(__file__).resolve()

INERT = {
    "pickled weights beside safetensors",
    "custom_pipelines",
    "adapter beside the model",
    "distributed checkpoint",
    "number type that is a function",
}
"""What is never looked at, so that the model works without it."""
WORDS = {
    "pickled weights": "pickled",
    "pickle named safetensors": "pickled",
    "auto_map": "auto_map",
    "internal attention hook": "_attn_implementation_internal",
    "attention from a hub": "attn_implementation",
    "kernels from a hub": "kernel",
    "tokenizer's auto_map": "auto_map",
    "tokenizer's class": "tokenizer_class",
    "modules.json": "evil.Transformer",
    "sentence_bert_config.json": "auto_map",
    "template that escapes": "chat template",
    "template that never ends": "chat template",
    "template that fills memory": "chat template",
    "template in a file": "chat template",
    "templates named like paths": "chat_template",
    "custom_generate": "custom_generate",
    "adapter that imports": "parent_library",
    "shard outside": "model.safetensors",
    "weights elsewhere": "transformers_weights",
}
NOT_FETCHED = {"adapter that imports"}
"""An import takes only what the engine reads, so it never sees the trick."""


@dataclass(frozen=True)
class Outcome:
    fate: Fate
    marker: Path


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    """All of them in one child, because most of its time is the import of its libraries."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "markers").mkdir()
    markers = {name: root / "markers" / str(place) for place, name in enumerate(TRICKS)}
    folders = {
        name: str(spoiled(root / f"checkpoint-{place}", markers[name], name))
        for place, name in enumerate(TRICKS)
    }
    done = subprocess.run(
        [sys.executable, str(HERE.with_name("hostile.py"))],
        input=json.dumps(folders),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    fates = json.loads(done.stdout)
    yield {name: Outcome(Fate(**fates[name]), markers[name]) for name in TRICKS}
    assert not list((root / "markers").iterdir())


@pytest.mark.parametrize("trick", TRICKS)
def test_no_trick_runs_code(trick: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[trick]
    assert not outcome.marker.exists()
    assert outcome.fate.attempts == []
    if trick in INERT:
        assert outcome.fate.gate == LOADED
        assert outcome.fate.start == LOADED
        assert outcome.fate.behind == LOADED
        return
    assert WORDS[trick] in outcome.fate.start
    if trick in NOT_FETCHED:
        assert outcome.fate.gate == LOADED
    else:
        assert WORDS[trick] in outcome.fate.gate


def test_the_second_wall_holds_alone(outcomes: dict[str, Outcome]) -> None:
    """Settings that the gate refuses do nothing where they get past it: the model is what its
    plain settings say."""
    settings = {
        *("auto_map", "internal attention hook", "attention from a hub", "kernels from a hub"),
        *("custom_generate", "adapter that imports", "weights elsewhere"),
    }
    assert {name: outcomes[name].fate.behind for name in settings} == dict.fromkeys(
        settings, LOADED
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_mapping": {"base_model_class": "Model", "parent_library": "evil"}},
        {"megatron_config": {"a": 1}, "megatron_core": "evil"},
        {"runtime_config": {"kernels": "someone/kernel"}},
    ],
)
def test_adapters_that_ask_for_code(settings: dict[str, object], tmp_path: Path) -> None:
    content = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], **settings}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(WeightsError, match=r"adapter_config\.json asks for code"):
        check_adapter(tmp_path)


def test_the_payloads_work(tmp_path: Path) -> None:
    """Each kind leaves its marker where nobody stops it; else their silence would prove nothing."""
    import importlib.util
    import pickle

    import hostile
    from jinja2 import Environment

    hostile.write_pickle(tmp_path / "gadget", tmp_path / "by pickle")
    pickle.loads((tmp_path / "gadget").read_bytes())["weight"].close()
    hostile.write_program(tmp_path / "program.py", tmp_path / "by program", "Model")
    found = importlib.util.spec_from_file_location("a_program", tmp_path / "program.py")
    assert found and found.loader
    found.loader.exec_module(importlib.util.module_from_spec(found))
    Environment().from_string(hostile.leave_marker(tmp_path / "by-template")).render()
    for name in ("by pickle", "by program", "by-template"):
        assert (tmp_path / name).exists()
