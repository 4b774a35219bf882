"""One order of sources, and what each place and kind of value means."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merging import merged, one
from sample_families import only_samples

from open_llm_server.config.merge import resolve_model
from open_llm_server.errors import ConfigurationError


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with only_samples(monkeypatch):
        yield


# The order of DESIGN section 4, highest first: how each place says top_k, and what it is called.
PLACES = {
    "set": "--set bloom.top_k",
    "keyword": "keyword top_k",
    "environment of the model": "environment OPEN_LLM_B_TOP_K",
    "environment of the family": "environment OPEN_LLM_BLOOM_TOP_K",
    "environment": "environment OPEN_LLM_TOP_K",
    "section of the model": "c.yaml b:",
    "section of the family": "c.yaml bloom:",
    "defaults": "c.yaml defaults:",
}


@pytest.mark.parametrize("present", [*itertools.combinations(PLACES, 2), tuple(PLACES), ()])
def test_the_highest_place_wins(present: tuple[str, ...], tmp_path: Path) -> None:
    values = {place: number for number, place in enumerate(PLACES, start=1)}
    environ = {
        PLACES[place].removeprefix("environment "): str(values[place])
        for place in present
        if place.startswith("environment")
    }
    yaml = tmp_path / "c.yaml"
    yaml.write_text(
        "\n".join(
            f"{PLACES[place].split()[1]} {{top_k: {values[place]}}}"
            for place in present
            if PLACES[place].startswith("c.yaml")
        )
    )
    plan = one(
        "b=bloom",
        sets=[f"bloom.top_k={values['set']}"] if "set" in present else [],
        flags={"top_k": values["keyword"]} if "keyword" in present else {},
        environ=environ,
        configuration=yaml,
    )
    winner = next((place for place in PLACES if place in present), None)
    assert plan.config["top_k"] == (values[winner] if winner else 40)
    assert plan.origins["top_k"] == (PLACES[winner] if winner else "default")


def test_cards_stand_between_yaml_and_the_defaults(tmp_path: Path) -> None:
    weights = tmp_path / "m.gguf"
    weights.touch()
    plan = one(f"llama-3.1-instruct@{weights}")
    assert plan.config["context_length"] == 8192
    assert plan.origins["context_length"] == "card llama-3.1-instruct"
    assert plan.family == "llama"
    yaml = tmp_path / "c.yaml"
    yaml.write_text("defaults:\n  context_length: 1024\n")
    plan = one(f"llama-3.1-instruct@{weights}", configuration=yaml)
    assert plan.config["context_length"] == 1024


def test_the_designs_own_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("default.yaml").write_text("bloom:\n  frequency_penalty: 1\ndefaults: {top_p: 0.5}\n")
    plan = one(
        environ={
            "OPEN_LLM_CONFIGURATION": "default.yaml",
            "OPEN_LLM_STOP_SEQUENCE": "--",
            "OPEN_LLM_BLOOM_FREQUENCY_PENALTY": "0.123",
        }
    )
    assert plan.config["stop_sequence"] == ["--"]
    assert plan.config["frequency_penalty"] == 0.123
    assert plan.config["top_p"] == 0.5
    assert plan.origins["top_p"] == "default.yaml defaults:"


def test_an_empty_variable_is_not_set() -> None:
    environ = {"OPEN_LLM_TOP_K": "", "OPEN_LLM_BLOOM_TOP_K": "", "OPEN_LLM_WHATEVER": ""}
    assert one(environ=environ).origins["top_k"] == "default"


def test_variables_of_others_are_left_alone() -> None:
    environ = {"OPEN_LLM_ENDPOINT": "http://x", "PATH": "/bin", "OPENLLM_X": "1", "open_llm_x": "1"}
    assert one(environ=environ).config["top_k"] == 40


def test_a_variable_of_all_is_ignored_where_a_family_lacks_the_field() -> None:
    plans = merged("bloom,plain", environ={"OPEN_LLM_BEAMS": "4"}).models
    assert plans[0].config["beams"] == 4
    assert "beams" not in plans[1].config
    plans = merged("bloom,plain", flags={"beams": 3}).models
    assert plans[0].config["beams"] == 3


def test_names_with_dashes_in_variables() -> None:
    plan = one("flan-t5", environ={"OPEN_LLM_FLAN_T5_TOP_K": "7"})
    assert plan.config["top_k"] == 7
    plan = one("gpt-3.5=flan-t5", environ={"OPEN_LLM_GPT_3_5_TOP_K": "8"})
    assert plan.config["top_k"] == 8


def test_several_models_have_their_own_values(tmp_path: Path) -> None:
    yaml = tmp_path / "c.yaml"
    yaml.write_text("one: {top_k: 1}\nflan-t5: {top_k: 2}\nbloom: {beams: 2}\n")
    first, second, third = merged(
        "one=bloom,two=bloom,flan-t5",
        configuration=yaml,
        sets=["two.temperature=0.2", "bloom.seed=9", "two.seed=none"],
        flags={"temperature": 0.7},
    ).models
    assert [plan.config["top_k"] for plan in (first, second, third)] == [1, 40, 2]
    assert [plan.config["temperature"] for plan in (first, second, third)] == [0.7, 0.2, 0.7]
    assert [plan.config["seed"] for plan in (first, second, third)] == [9, None, None]
    assert [plan.config["beams"] for plan in (first, second, third)] == [2, 2, 1]
    assert third.origins["top_k"] == "c.yaml flan-t5:"


def test_the_later_set_wins() -> None:
    assert one(sets=["bloom.top_k=1", "bloom.top_k=2"]).config["top_k"] == 2


def test_none_is_a_value() -> None:
    plan = one(environ={"OPEN_LLM_MAX_TOKENS": "5"}, sets=["bloom.max_tokens=none"])
    assert plan.config["max_tokens"] is None
    assert one(environ={"OPEN_LLM_SEED": "none"}, flags={}).config["seed"] is None
    plan = one(environ={"OPEN_LLM_MAX_TOKENS": "5"}, flags={"max_tokens": None})
    assert plan.config["max_tokens"] is None


def test_where_models_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = tmp_path / "c.yaml"
    yaml.write_text("models: [a=bloom, plain]\na: {top_k: 3}\n")
    environ = {"OPEN_LLM_MODELS": "flan-t5, plain"}
    named = merged("", configuration=yaml, environ=environ)
    assert [plan.name for plan in named.models] == ["a", "plain"]
    assert named.models[0].config["top_k"] == 3
    assert [plan.name for plan in merged("", environ=environ).models] == ["flan-t5", "plain"]
    # the file still describes a model that is not started this time
    assert [plan.name for plan in merged("bloom", configuration=yaml).models] == ["bloom"]
    assert merged("", need_models=False).models == ()


def test_a_started_alias_may_have_a_cards_name(tmp_path: Path) -> None:
    yaml = tmp_path / "c.yaml"
    yaml.write_text("models: [vicuna=bloom]\nvicuna: {top_k: 3}\n")
    (plan,) = merged("", configuration=yaml).models
    assert (plan.family, plan.card, plan.config["top_k"]) == ("bloom", "bloom", 3)


def test_prompts_are_texts_or_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "conf"
    inside.mkdir()
    (tmp_path / "system.txt").write_text("from here\n")
    (inside / "system.txt").write_bytes(b"\xef\xbb\xbffrom there\n")
    (inside / "c.yaml").write_text("bloom: {prompt: system.txt}\n")
    monkeypatch.chdir(tmp_path)
    assert one(flags={"prompt": "system.txt"}).config["prompt"] == "from here\n"
    by_file = one(configuration=inside / "c.yaml")
    assert by_file.config["prompt"] == "from there\n"
    assert by_file.origins["prompt"] == "c.yaml bloom:"
    assert one(flags={"prompt": "You are a cat."}).config["prompt"] == "You are a cat."
    assert one(flags={"prompt": "x" * 5000}).config["prompt"] == "x" * 5000
    assert one(flags={"prompt": "a\0b"}).config["prompt"] == "a\0b"
    # a file that a higher place overrules is not even looked for
    (inside / "c.yaml").write_text("bloom: {prompt: gone.txt}\n")
    assert one(configuration=inside / "c.yaml", flags={"prompt": "x y"}).config["prompt"] == "x y"


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a.gguf").touch()
    (tmp_path / "conf" / "w.gguf").touch()
    yaml = tmp_path / "conf" / "c.yaml"
    yaml.write_text("models: [llama@./w.gguf]\nllama: {lora: [a.gguf]}\n")
    monkeypatch.chdir(tmp_path)
    (plan,) = merged("", configuration="conf/c.yaml").models
    assert plan.config["lora"] == [str(tmp_path / "conf" / "a.gguf")]
    assert plan.source is not None
    assert plan.source.location == str(tmp_path / "conf" / "w.gguf")
    assert one("bloom", flags={"lora": "conf/a.gguf"}).config["lora"] == plan.config["lora"]


def test_devices_by_every_door(tmp_path: Path) -> None:
    yaml = tmp_path / "c.yaml"
    yaml.write_text("defaults: {device: gpu:1}\n")
    environ = {"OPEN_LLM_DEVICE": "bloom:cuda:0,cpu"}

    def placed(**given: Any) -> dict[str, str]:
        plans = merged("bloom,two=plain", **given).models
        return {plan.name: plan.device for plan in plans}

    assert placed() == {"bloom": "auto", "two": "auto"}
    assert placed(configuration=yaml) == {"bloom": "gpu:1", "two": "gpu:1"}
    assert placed(configuration=yaml, environ=environ) == {"bloom": "gpu:0", "two": "cpu"}
    together = placed(environ=environ, devices=["two:gpu:0+1,bloom:cpu"])
    assert together == {"bloom": "cpu", "two": "gpu:0+1"}
    assert together == placed(environ=environ, devices=["two:gpu:0+1", "bloom:cpu"])
    assert placed(devices=["plain:cpu"]) == {"bloom": "auto", "two": "cpu"}
    assert placed(devices=["plain:cpu", "two:gpu:1"]) == {"bloom": "auto", "two": "gpu:1"}
    assert placed(devices="cpu") == {"bloom": "cpu", "two": "cpu"}
    assert placed(flags={"device": "cpu"}) == {"bloom": "cpu", "two": "cpu"}
    assert placed(environ={"OPEN_LLM_PLAIN_DEVICE": "cpu"}) == {"bloom": "auto", "two": "cpu"}
    assert placed(devices=["cpu"], sets=["two.device=gpu"])["two"] == "gpu:0"
    # in the environment, a placement may also be for a model that is not started this time
    assert placed(environ={"OPEN_LLM_DEVICE": "flan-t5:cpu"}) == {"bloom": "auto", "two": "auto"}


def test_gpus_and_threads_of_a_plan() -> None:
    plan = one(devices="gpu:1+0")
    assert plan.gpus == ("1", "0")
    assert plan.config["device"] == "gpu:1+0"
    plan = one(flags={"threads": 3})
    assert plan.threads == plan.config["threads"] == 3
    assert one().origins["threads"] == "default, of 8 cores"


def test_server_values_and_lists(tmp_path: Path) -> None:
    yaml = tmp_path / "c.yaml"
    yaml.write_text("server: {port: 1, host: localhost, api_key: [from-yaml]}\n")
    both = merged(configuration=yaml, environ={"OPEN_LLM_PORT": "2", "OPEN_LLM_API_KEY": "a, b"})
    assert (both.server.port, both.server.host) == (2, "localhost")
    assert both.server.api_key == ("a", "b")
    assert both.origins["host"] == "c.yaml server:"
    assert both.origins["port"] == "environment OPEN_LLM_PORT"
    by_json = merged(environ={"OPEN_LLM_API_KEY": '["a,b", "c"]'})
    assert by_json.server.api_key == ("a,b", "c")
    assert merged(flags={"port": 3}, environ={"OPEN_LLM_PORT": "2"}).server.port == 3


def test_the_plan_is_complete_and_loads() -> None:
    from sample_families import SampleConfig

    plan = one(flags={"extra_words": "x", "verbose": True})
    assert set(plan.config) == set(plan.origins) == set(SampleConfig.model_fields)
    config = SampleConfig.model_validate(plan.config)
    assert config.extra_words == ("x",)
    assert config.verbose is True
    assert plan.implementation.startswith("sample_families:")


def test_get_runner_goes_through_the_same_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPEN_LLM_BLOOM_TOP_P", "0.5")
    plan = resolve_model("bloom", top_k=3)
    assert (plan.config["top_k"], plan.config["top_p"]) == (3, 0.5)
    assert plan.origins["top_k"] == "keyword top_k"
    assert resolve_model("x=bloom", device="cpu").device == "cpu"
    with pytest.raises(ValueError, match="'top_k'"):
        resolve_model("bloom", topk=3)
    with pytest.raises(ConfigurationError, match="setting of the server"):
        resolve_model("bloom", port=3)
    monkeypatch.setenv("OPEN_LLM_BLOOM_FRQUENCY_PENALTY", "1")
    with pytest.raises(ConfigurationError, match="FREQUENCY"):
        resolve_model("bloom")
    with pytest.raises(ConfigurationError):
        resolve_model("bloom,plain")


numbers = st.floats(0, 2, allow_nan=False)


@settings(deadline=None, max_examples=30)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "temperature": numbers,
            "top_k": st.integers(0, 1_000_000),
            "seed": st.integers(-(2**63), 2**63 - 1),
            "stop_sequence": st.lists(
                st.text(
                    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20
                ),
                max_size=16,
            ),
        },
    )
)
def test_a_value_is_the_same_by_keyword_and_by_variable(values: dict[str, Any]) -> None:
    import json

    environ = {f"OPEN_LLM_{name.upper()}": json.dumps(value) for name, value in values.items()}
    by_keyword, by_variable = one(flags=values), one(environ=environ)
    assert by_keyword.config == by_variable.config
    for name, value in values.items():
        assert by_keyword.config[name] == value


def test_the_real_environment_in_a_process_of_its_own() -> None:
    script = (
        "from open_llm_server.config.merge import resolve_model\n"
        "print(resolve_model('fake').config['top_k'])"
    )
    environ = {**os.environ, "OPEN_LLM_FAKE_TOP_K": "9"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "9", done.stderr
