"""How refusals read: one colon after a place, and only hints that help."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_families import MACHINE

from open_llm_server.config.merge import resolve
from open_llm_server.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server: {prot: 1}", "port.yaml server: there is no setting 'prot'; did you mean 'port'?"),
        ("server: {port: x}", "port.yaml server: port: input should be a valid integer"),
        ("fake: 3", "port.yaml fake: must hold lines of `setting: value`"),
        ("fake: {prompt: none.txt}", "port.yaml fake: there is no file 'none.txt'"),
        ("fake: {device: 'gpu:9'}", "fake: port.yaml fake: this machine has no device gpu:9"),
        ("models: 3", "port.yaml models: must be a list"),
        ("fake: {qqqqqq: 1}", "'qqqqqq'; `open-llm-server start --help` names those there are"),
    ],
)
def test_a_place_in_a_file_has_one_colon(text: str, words: str, tmp_path: Path) -> None:
    yaml = tmp_path / "port.yaml"
    yaml.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        resolve("fake", configuration=yaml, environ={}, machine=MACHINE)
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("OPEN_LLM_FAKE_PORT", "port is a setting of the whole server: OPEN_LLM_PORT"),
        ("OPEN_LLM_FAKE_API_KEY", "api_key is a setting of the whole server: OPEN_LLM_API_KEY"),
        ("OPEN_LLM_FAKE_TOPK", "did you mean 'OPEN_LLM_FAKE_TOP_K'?"),
        ("OPEN_LLM_QQQQQQ", "`open-llm-server start --help` names those there are"),
    ],
)
def test_hints_for_variables(variable: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        resolve("fake", environ={variable: "1"}, machine=MACHINE)
    assert refused.value.message == f"environment: there is no variable {variable}; {hint}"
